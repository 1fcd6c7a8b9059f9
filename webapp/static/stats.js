// How well the model does: on what people labelled, and on what its card was measured on.

import { percent } from "./result.js";

const DIGITS = [...Array(10).keys()];

export class Stats {
  #section;

  constructor(section) {
    this.#section = section;
  }

  show({ labelled, right, accuracy, confusion }) {
    const [summary, table] = [this.#find(".accuracy"), this.#find(".confusion")];
    table.hidden = labelled === 0;
    summary.textContent = labelled
      ? `${percent(accuracy)} right: ${right} of ${labelled} that somebody labelled.`
      : "Nothing is labelled yet. Say what a digit really was, and this tells how often it is read rightly.";
    table.tHead.replaceChildren(line("th", ["", ...DIGITS, "right"]));
    table.tBodies[0].replaceChildren(...confusion.map(confusionRow));
  }

  showModel({ version, made_at: madeAt, figures }) {
    const worst = (name) => {
      const parts = Object.keys(figures).filter((part) => part.startsWith(name));
      return Math.min(...parts.map((part) => figures[part].accuracy));
    };
    const made = new Date(madeAt).toLocaleDateString([], { dateStyle: "medium" });
    const figure = (name, what) =>
      Number.isFinite(worst(name)) ? [`${percent(worst(name))} of ${what}`] : [];
    const read = [
      ...figure("MNIST", "MNIST’s test digits"),
      ...figure("drawings", "digits drawn by people it never saw"),
    ];
    this.#find(".model").textContent =
      `Model ${version}, made ${made}` + (read.length ? `, reads ${read.join(" and ")}.` : ".");
  }

  #find(selector) {
    return this.#section.querySelector(selector);
  }
}

function confusionRow(counts, digit) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const row = line("td", [...counts.map((count) => count || ""), total ? percent(counts[digit] / total, 0) : ""]);
  counts.forEach((count, read) => {
    const cell = row.cells[read];
    cell.style.setProperty("--share", total ? count / total : 0);
    cell.className = read === digit ? "right" : "wrong";
  });
  row.prepend(heading(digit, "row"));
  return row;
}

function line(tag, contents) {
  const row = document.createElement("tr");
  row.append(
    ...contents.map((content) => {
      if (tag === "th" && content !== "") return heading(content, "col");
      const cell = document.createElement("td");
      cell.textContent = content;
      return cell;
    }),
  );
  return row;
}

function heading(text, scope) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.textContent = text;
  return cell;
}
