// Shows the accuracy on labelled predictions, the confusion matrix, and the model's test accuracy.

import { drawChart } from "./chart.js";
import { percent } from "./result.js";

const DIGITS = [...Array(10).keys()];

export class Stats {
  #section;

  constructor(section) {
    this.#section = section;
  }

  show({ labelled, right: correct, accuracy, confusion, model_versions: versions }) {
    const [summary, table] = [this.#find(".accuracy"), this.#find(".confusion")];
    table.hidden = labelled === 0;
    summary.textContent = labelled
      ? `${percent(accuracy)} of labelled predictions are correct (${correct} of ${labelled}).`
      : "No predictions are labelled yet. Label one to see the accuracy.";
    table.tHead.replaceChildren(createRow("th", ["", ...DIGITS, "Correct"]));
    table.tBodies[0].replaceChildren(...confusion.map(createConfusionRow));
    drawChart(this.#find(".chart"), versions);
    this.#find(".versions").replaceChildren(
      ...versions.filter((version) => version.labelled).map(createVersionItem),
    );
  }

  showModel({ version, made_at: madeAt, figures }) {
    const accuracies = [
      describeAccuracy(figures, "MNIST", "on MNIST"),
      describeAccuracy(figures, "drawings", "on drawings by people who are not in the training data"),
    ].filter(Boolean);
    this.#find(".model").textContent =
      `Model ${version}, created ${formatDate(madeAt)}.` +
      (accuracies.length ? ` Test accuracy: ${accuracies.join(", ")}.` : "");
  }

  #find(selector) {
    return this.#section.querySelector(selector);
  }
}

// Describes the lowest accuracy on the test sets whose names start with the prefix. Returns null if
// there are none.
function describeAccuracy(figures, prefix, description) {
  const names = Object.keys(figures).filter((name) => name.startsWith(prefix));
  const accuracies = names.map((name) => figures[name].accuracy);
  return names.length ? `${percent(Math.min(...accuracies))} ${description}` : null;
}

function createVersionItem(version) {
  const { model_version: name, since, labelled, right: correct, accuracy } = version;
  const [low, high] = version.accuracy_interval.map((share) => percent(share));
  const item = document.createElement("li");
  item.textContent =
    `Model ${name} since ${formatDate(since, "UTC")}: ${percent(accuracy)} ` +
    `(${correct} of ${labelled}; 95 % interval: ${low} to ${high})`;
  return item;
}

function formatDate(time, timeZone) {
  return new Date(time).toLocaleDateString([], { dateStyle: "medium", timeZone });
}

function createConfusionRow(counts, label) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const share = total ? percent(counts[label] / total, 0) : "";
  const row = createRow("td", [...counts.map((count) => count || ""), share]);
  counts.forEach((count, predictedDigit) => {
    const cell = row.cells[predictedDigit];
    cell.style.setProperty("--share", total ? count / total : 0);
    cell.className = predictedDigit === label ? "correct" : "incorrect";
  });
  row.prepend(createHeading(label, "row"));
  return row;
}

function createRow(tag, contents) {
  const row = document.createElement("tr");
  row.append(
    ...contents.map((content) => {
      if (tag === "th" && content !== "") return createHeading(content, "col");
      const cell = document.createElement("td");
      cell.textContent = content;
      return cell;
    }),
  );
  return row;
}

function createHeading(text, scope) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.textContent = text;
  return cell;
}
