// Talks to the server. Knows no element; what goes wrong is an Error with a sentence for a person.

const PREDICTIONS = "/api/predictions";
const PATIENCE_MS = 15_000;

// Reads an image, a data URL, and records the prediction.
export async function predict(image) {
  return send("POST", PREDICTIONS, { image });
}

export async function preview(image) {
  return send("POST", `${PREDICTIONS}?store=no`, { image });
}

export async function label(id, trueDigit) {
  return send("PATCH", `${PREDICTIONS}/${id}`, { true_digit: trueDigit });
}

// One page of the record, newest first, and as `next` what to pass as `before` for the one after.
export async function recent(query) {
  return request(`${PREDICTIONS}?${new URLSearchParams(query)}`);
}

export async function stats() {
  return request("/api/stats");
}

export async function model() {
  return request("/api/model");
}

function send(method, url, body) {
  const headers = { "Content-Type": "application/json" };
  return request(url, { method, headers, body: JSON.stringify(body) });
}

async function request(url, options) {
  const controller = new AbortController(); // AbortSignal.timeout is missing before Safari 16
  const timer = setTimeout(() => controller.abort(), PATIENCE_MS);
  let response, answer;
  try {
    response = await fetch(url, { signal: controller.signal, ...options });
    answer = await response.json().catch(() => null); // cut off, or not the service's
  } catch {
    throw new Error("The service cannot be reached. Your drawing is kept.");
  } finally {
    clearTimeout(timer);
  }
  if (response.ok && answer) return answer;
  const error = new Error(answer?.detail ?? "The service could not answer. Your drawing is kept.");
  error.wait = Number(response.headers.get("Retry-After")); // seconds
  throw error;
}
