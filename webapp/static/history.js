// The table of recent predictions, sorted by the column that was clicked.

import { drawPixels, percent } from "./result.js";

export const ROWS = 50;

export class History {
  #table;
  #empty;
  #predictions = [];
  #key = "created_at";
  #ascending = false;

  constructor(table, empty) {
    this.#table = table;
    this.#empty = empty;
    table.tHead.addEventListener("click", (event) => {
      const key = event.target.closest("button")?.dataset.key;
      if (key) this.#sortBy(key);
    });
  }

  // What was predicted before the list arrived may be missing from it.
  fill(predictions) {
    const known = new Set(predictions.map(({ id }) => id));
    const newer = this.#predictions.filter(({ id }) => !known.has(id));
    this.#predictions = [...newer, ...predictions].slice(0, ROWS);
    this.#render();
  }

  add(prediction) {
    this.#predictions = [prediction, ...this.#predictions].slice(0, ROWS);
    this.#render();
  }

  update(prediction) {
    this.#predictions = this.#predictions.map((old) => (old.id === prediction.id ? prediction : old));
    this.#render();
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
  }
}

function row(prediction) {
  const line = document.createElement("tr");
  line.dataset.id = prediction.id;
  const picture = document.createElement("canvas");
  picture.width = picture.height = 28;
  drawPixels(picture, prediction.pixels);
  const when = document.createElement("time");
  when.dateTime = prediction.created_at;
  when.textContent = new Date(prediction.created_at).toLocaleString([], {
    dateStyle: "short",
    timeStyle: "short",
  });
  const label = prediction.true_digit;
  if (label !== null) line.className = label === prediction.predicted_digit ? "right" : "wrong";
  const contents = [picture, prediction.predicted_digit, percent(prediction.confidence), label ?? "–", when];
  for (const content of contents) line.insertCell().append(content);
  return line;
}
