// The table of recent predictions. The server filters them; the browser sorts them.

import { drawPixels, percent } from "./result.js";

const PAGE_SIZE = 50;

// The query parameters for each option of the Result filter.
const OUTCOME_QUERIES = {
  correct: { right: "yes" },
  incorrect: { right: "no" },
  unlabelled: { labelled: "no" },
};

export class History {
  #table;
  #empty;
  #more;
  #filters;
  #fetchPage; // Takes query parameters, and a function that returns whether the page is still wanted.
  #onSelect;
  #onError;
  #predictions = [];
  #next = null; // The cursor of the next page, or null after the last one.
  #latestLoad = 0; // Increases with each load, so that responses to older loads can be dropped.
  #sortKey = "created_at";
  #ascending = false;

  constructor(section, { fetchPage, onSelect, onError }) {
    this.#table = section.querySelector("table");
    this.#empty = section.querySelector(".empty");
    this.#more = section.querySelector(".more");
    this.#filters = section.querySelector("form");
    this.#fetchPage = fetchPage;
    this.#onSelect = onSelect;
    this.#onError = onError;
    this.#filters.addEventListener("change", () => this.load());
    this.#more.addEventListener("click", () => this.#loadMore());
    this.#table.tHead.addEventListener("click", (event) => {
      const key = event.target.closest("button")?.dataset.key;
      if (key) this.#sortBy(key);
    });
    this.#table.tBodies[0].addEventListener("click", (event) => {
      const id = event.target.closest("tr").dataset.id;
      this.#onSelect(this.#predictions.find((prediction) => prediction.id === id));
    });
  }

  // Loads the first page. Predictions that were made during the load stay in the table.
  async load() {
    // IDs increase with time.
    const isNewer = (old, page) => this.#matchesFilters(old) && !(old.id <= page[0]?.id);
    const newer = (page) => this.#predictions.filter((old) => isNewer(old, page));
    await this.#load({}, (page) => [...newer(page), ...page]);
  }

  add(prediction) {
    if (!this.#matchesFilters(prediction)) return;
    this.#predictions = [prediction, ...this.#predictions];
    this.#render();
  }

  update(prediction) {
    this.#predictions = this.#predictions.map((old) => (old.id === prediction.id ? prediction : old));
    this.#render();
  }

  remove(id) {
    this.#predictions = this.#predictions.filter((old) => old.id !== id);
    this.#render();
  }

  // Loads the first page, and forgets what was in the table.
  async reload() {
    this.#predictions = [];
    await this.load();
  }

  async #loadMore() {
    await this.#load({ before: this.#next }, (page) => [...this.#predictions, ...page]);
  }

  async #load(position, combine) {
    const load = ++this.#latestLoad;
    const isLatest = () => load === this.#latestLoad;
    try {
      const { digit, outcome } = this.#filterValues();
      const filters = { ...(digit && { digit }), ...OUTCOME_QUERIES[outcome] };
      const query = { limit: PAGE_SIZE, ...filters, ...position };
      const { predictions, next } = await this.#fetchPage(query, isLatest);
      if (!isLatest()) return;
      this.#predictions = combine(predictions);
      this.#next = next;
      this.#render();
    } catch (error) {
      if (isLatest()) this.#onError(error);
    }
  }

  #filterValues() {
    return Object.fromEntries(new FormData(this.#filters));
  }

  #matchesFilters(prediction) {
    const { digit, outcome } = this.#filterValues();
    return (
      (!digit || Number(digit) === prediction.predicted_digit) &&
      (!outcome || outcome === outcomeOf(prediction))
    );
  }

  #sortBy(key) {
    // The first click puts the newest predictions or the lowest values on top, the next one reverses them.
    this.#ascending = this.#sortKey === key ? !this.#ascending : key !== "created_at";
    this.#sortKey = key;
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
    const value = (prediction) => prediction[this.#sortKey] ?? -1; // A missing label sorts before 0.
    const sorted = [...this.#predictions].sort((a, b) =>
      value(a) === value(b) ? 0 : value(a) > value(b) ? sign : -sign,
    );
    this.#table.tBodies[0].replaceChildren(...sorted.map(createRow));
    this.#table.hidden = sorted.length === 0;
    this.#empty.hidden = sorted.length > 0;
    const { digit, outcome } = this.#filterValues();
    this.#empty.textContent =
      digit || outcome
        ? this.#next === null
          ? "No predictions match these filters."
          : "No recent predictions match these filters. Show more to search older ones."
        : "No predictions yet.";
    this.#more.hidden = this.#next === null;
  }
}

function outcomeOf({ predicted_digit: predictedDigit, true_digit: label }) {
  if (label === null) return "unlabelled";
  return label === predictedDigit ? "correct" : "incorrect";
}

function createRow(prediction) {
  const row = document.createElement("tr");
  row.dataset.id = prediction.id;
  row.className = outcomeOf(prediction);
  const image = document.createElement("canvas");
  image.width = image.height = 28;
  drawPixels(image, prediction.pixels);
  const button = document.createElement("button");
  button.type = "button";
  button.title = `Show this prediction (${prediction.predicted_digit})`;
  button.append(image);
  const time = document.createElement("time");
  time.dateTime = prediction.created_at;
  time.textContent = new Date(prediction.created_at).toLocaleString([], {
    dateStyle: "short",
    timeStyle: "short",
  });
  const { predicted_digit: digit, confidence, true_digit: label } = prediction;
  for (const content of [button, digit, percent(confidence), label ?? "–", time]) {
    row.insertCell().append(content);
  }
  return row;
}
