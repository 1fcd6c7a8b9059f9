// Sends requests, retries those that fail until the server has accepted or rejected them, and shows messages.

const RETRY_INTERVAL_MS = 2_000; // Without a Retry-After.

export class Sender {
  #failures = new Map(); // For each failed request: its error, and a function that retries it now.
  #last = {}; // The last request of each kind that saves something.
  #unsaved = 0;
  #text = "";
  #message;
  #button;

  // Shows messages in an element, and a button while there is something to try again.
  constructor(message, button) {
    this.#message = message;
    this.#button = button;
    button.addEventListener("click", () => this.retry());
    addEventListener("beforeunload", (event) => {
      if (this.#unsaved) event.preventDefault(); // The browser asks whether to leave the page.
    });
  }

  showMessage(text) {
    this.#text = text;
    this.#render();
  }

  // Returns whether a failed request is waiting to be retried.
  get isWaiting() {
    return this.#failures.size > 0;
  }

  // Retries all failed requests now.
  retry() {
    for (const { repeat } of this.#failures.values()) repeat();
  }

  // Calls an asynchronous function that sends a request, until it succeeds; returns its result. Throws
  // the error if the server rejects the request, or if it fails and is no longer wanted.
  async load(request, isWanted = () => true) {
    try {
      for (;;) {
        try {
          return await request();
        } catch (error) {
          if (error.isFinal || !isWanted()) throw error;
          await this.#wait(request, error);
        }
      }
    } finally {
      this.#failures.delete(request);
      this.#render();
    }
  }

  // Like load, for a request that saves something. Those of one kind are sent one after another.
  async save(kind, request) {
    this.#unsaved += 1;
    this.#render();
    const turn = this.#last[kind] ?? Promise.resolve();
    const saved = turn.then(() => this.load(request)).finally(() => (this.#unsaved -= 1));
    this.#last[kind] = saved.catch(() => {}).then(() => this.#render());
    return saved;
  }

  #wait(request, error) {
    return new Promise((repeat) => {
      this.#failures.set(request, { error, repeat });
      this.#render();
      setTimeout(repeat, 1000 * error.retryAfter || RETRY_INTERVAL_MS);
    });
  }

  #render() {
    const problems = [...this.#failures.values()].map(({ error }) => error.message);
    const unsaved = this.isWaiting && this.#unsaved ? `Unsaved: ${this.#unsaved}.` : "";
    const message = problems.includes(this.#text) ? "" : this.#text;
    const text = [...new Set([message, unsaved, ...problems])].filter(Boolean).join(" ");
    // A screen reader would read the same text out again.
    if (this.#message.textContent !== text) this.#message.textContent = text;
    this.#button.hidden = !this.isWaiting;
  }
}
