// The table of recent predictions: filtered by the server, sorted here. Knows no URL.

import { drawPixels, percent } from "./result.js";

const ROWS = 50; // a page

const VERDICTS = {
  right: { right: "yes" },
  wrong: { right: "no" },
  unlabelled: { labelled: "no" },
};

export class History {
  #table;
  #empty;
  #more;
  #filters;
  #fetch; // of a query, a page of predictions
  #choose;
  #complain;
  #predictions = [];
  #next = null; // where the next page begins
  #loading = 0; // counts loads, so that the answer to an older one is dropped
  #key = "created_at";
  #ascending = false;

  constructor(section, fetch, choose, complain) {
    this.#table = section.querySelector("table");
    this.#empty = section.querySelector(".empty");
    this.#more = section.querySelector(".more");
    this.#filters = section.querySelector("form");
    this.#fetch = fetch;
    this.#choose = choose;
    this.#complain = complain;
    this.#filters.addEventListener("change", () => this.load());
    this.#more.addEventListener("click", () => this.#loadMore());
    this.#table.tHead.addEventListener("click", (event) => {
      const key = event.target.closest("button")?.dataset.key;
      if (key) this.#sortBy(key);
    });
    this.#table.tBodies[0].addEventListener("click", (event) => {
      const id = event.target.closest("tr").dataset.id;
      this.#choose(this.#predictions.find((prediction) => prediction.id === id));
    });
  }

  // Shows the newest, in place of all that was shown but what was predicted meanwhile.
  async load() {
    const isNewer = (old, page) => this.#matches(old) && !(old.id <= page[0]?.id); // ids ascend with time
    await this.#load({}, (page) => [...this.#predictions.filter((old) => isNewer(old, page)), ...page]);
  }

  add(prediction) {
    if (!this.#matches(prediction)) return;
    this.#predictions = [prediction, ...this.#predictions];
    this.#render();
  }

  update(prediction) {
    this.#predictions = this.#predictions.map((old) => (old.id === prediction.id ? prediction : old));
    this.#render();
  }

  async #loadMore() {
    await this.#load({ before: this.#next }, (page) => [...this.#predictions, ...page]);
  }

  async #load(where, combine) {
    const load = ++this.#loading;
    try {
      const { digit, verdict } = this.#chosen();
      const query = { limit: ROWS, ...(digit && { digit }), ...VERDICTS[verdict], ...where };
      const { predictions, next } = await this.#fetch(query);
      if (load !== this.#loading) return;
      this.#predictions = combine(predictions);
      this.#next = next;
      this.#render();
    } catch (error) {
      if (load === this.#loading) this.#complain(error, () => this.#load(where, combine));
    }
  }

  #chosen() {
    return Object.fromEntries(new FormData(this.#filters));
  }

  #matches({ predicted_digit: read, true_digit: label }) {
    const { digit, verdict } = this.#chosen();
    const is = label === null ? "unlabelled" : label === read ? "right" : "wrong";
    return (!digit || Number(digit) === read) && (!verdict || verdict === is);
  }

  #sortBy(key) {
    this.#ascending = this.#key === key ? !this.#ascending : key !== "created_at";
    this.#key = key;
    for (const header of this.#table.tHead.rows[0].cells) {
      header.removeAttribute("aria-sort");
      if (header.querySelector("button")?.dataset.key === key) {
        header.setAttribute("aria-sort", this.#ascending ? "ascending" : "descending");
      }
    }
    this.#render();
  }

  #render() {
    const sign = this.#ascending ? 1 : -1;
    const value = (prediction) => prediction[this.#key] ?? -1; // unlabelled before 0
    const sorted = [...this.#predictions].sort((one, other) =>
      value(one) === value(other) ? 0 : value(one) > value(other) ? sign : -sign,
    );
    this.#table.tBodies[0].replaceChildren(...sorted.map(row));
    this.#table.hidden = sorted.length === 0;
    this.#empty.hidden = sorted.length > 0;
    const { digit, verdict } = this.#chosen();
    this.#empty.textContent =
      digit || verdict ? "None like that so far." : "Nothing yet. Each prediction appears here.";
    this.#more.hidden = this.#next === null;
  }
}

function row(prediction) {
  const line = document.createElement("tr");
  line.dataset.id = prediction.id;
  const picture = document.createElement("canvas");
  picture.width = picture.height = 28;
  drawPixels(picture, prediction.pixels);
  const again = document.createElement("button");
  again.type = "button";
  again.title = `Show this ${prediction.predicted_digit} again`;
  again.append(picture);
  const when = document.createElement("time");
  when.dateTime = prediction.created_at;
  when.textContent = new Date(prediction.created_at).toLocaleString([], {
    dateStyle: "short",
    timeStyle: "short",
  });
  const label = prediction.true_digit;
  if (label !== null) line.className = label === prediction.predicted_digit ? "right" : "wrong";
  const contents = [again, prediction.predicted_digit, percent(prediction.confidence), label ?? "–", when];
  for (const content of contents) line.insertCell().append(content);
  return line;
}
