// Talks to the server. Knows no element; what goes wrong is an Error with a sentence for a person.

const PREDICTIONS = "/api/predictions";
const PATIENCE_MS = 15_000;

export async function predict(picture) {
  return request(PREDICTIONS, {
    method: "POST",
    headers: { "Content-Type": picture.type },
    body: picture,
  });
}

export async function label(id, trueDigit) {
  return request(`${PREDICTIONS}/${id}`, {
    method: "PATCH",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ true_digit: trueDigit }),
  });
}

export async function recent(limit) {
  return (await request(`${PREDICTIONS}?limit=${limit}`)).predictions;
}

async function request(url, options) {
  let response;
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(PATIENCE_MS), ...options });
  } catch {
    throw new Error("The service cannot be reached. Your drawing is kept: try again.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Error(answer.detail ?? "The service could not answer. Your drawing is kept: try again.");
  }
  return answer;
}
