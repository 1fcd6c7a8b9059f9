// Calls the HTTP API. Every failure is an Error whose message can be shown to the user.

const API = new URL("../api/", import.meta.url).pathname; // The service may be under a path.
const PREDICTIONS = `${API}predictions`;
const TIMEOUT_MS = 15_000;
const FINAL = [400, 403, 404, 413, 415, 422]; // Sending the same request again would not help.

// Classifies a drawing (strokes, a data URL or a file) and stores the prediction, once for each key.
export async function createPrediction(drawing, key) {
  return send("POST", PREDICTIONS, drawing, { "Idempotency-Key": key });
}

// Classifies a drawing without storing anything.
export async function preview(drawing) {
  return send("POST", `${PREDICTIONS}?store=no`, drawing);
}

// Sets the label of a prediction, or removes it if trueDigit is null.
export async function setLabel(id, trueDigit) {
  return send("PATCH", `${PREDICTIONS}/${id}`, { true_digit: trueDigit });
}

// Deletes a prediction that this browser made.
export async function deletePrediction(id) {
  return request(`${PREDICTIONS}/${id}`, { method: "DELETE" });
}

// Deletes all predictions that this browser made. Returns { deleted }, their number.
export async function deleteMine() {
  return request(`${PREDICTIONS}?mine=yes`, { method: "DELETE" });
}

// Returns one page of predictions, newest first. Pass its `next` as `before` to get the next page.
export async function listPredictions(query) {
  return request(`${PREDICTIONS}?${new URLSearchParams(query)}`);
}

// Returns a page of labels to review, in the order in which to review them.
export async function listForReview(limit, token) {
  return request(`${PREDICTIONS}?order=review&limit=${limit}`, { headers: authorization(token) });
}

// Sets the label of a prediction and its review: { true_digit, review }.
export async function reviewLabel(id, label, token) {
  return send("PATCH", `${PREDICTIONS}/${id}`, label, authorization(token));
}

export async function getStats() {
  return request(`${API}stats`);
}

// Returns the model card.
export async function getModel() {
  return request(`${API}model`);
}

function authorization(token) {
  // A header consists of bytes, one for each character of the string.
  return { Authorization: `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}` };
}

function send(method, url, body, headers) {
  if (body instanceof File) {
    return request(url, { method, headers: { "Content-Type": body.type, ...headers }, body });
  }
  headers = { "Content-Type": "application/json", ...headers };
  return request(url, { method, headers, body: JSON.stringify(body) });
}

async function request(url, options) {
  const controller = new AbortController(); // Safari 15 does not have AbortSignal.timeout.
  const timer = setTimeout(() => controller.abort(), TIMEOUT_MS);
  let response, body;
  try {
    response = await fetch(url, { signal: controller.signal, ...options });
    // The body may be cut off, or may come from a proxy and not be JSON.
    body = await response.json().catch(() => null);
  } catch {
    throw new Error("The server cannot be reached. Check your connection.");
  } finally {
    clearTimeout(timer);
  }
  if (response.ok && (body || response.status === 204)) return body;
  const error = new Error(body?.detail ?? "The server sent an unexpected response.");
  error.status = response.status;
  error.isFinal = FINAL.includes(response.status);
  error.retryAfter = Number(response.headers.get("Retry-After")); // In seconds; 0 without the header.
  throw error;
}
