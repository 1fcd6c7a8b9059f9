// Where the parts of the page meet.

import { History, ROWS } from "./history.js";
import { Pad } from "./pad.js";
import { Result } from "./result.js";
import * as server from "./server.js";

const element = (id) => document.getElementById(id);
const result = new Result(element);
const history = new History(element("history"), element("empty"));
const pad = new Pad(element("pad"), () => {
  drawing += 1;
  result.clear();
  say("");
});
let drawing = 0; // counts changes, so that an answer to an older drawing is dropped
let asked = null; // the drawing that a prediction is under way for
let labelled = Promise.resolve();

function say(text) {
  element("message").textContent = text;
}

async function predict() {
  if (pad.isEmpty) {
    say("There is nothing to read yet: draw a digit first.");
    return;
  }
  if (asked === drawing) return; // under way
  const current = (asked = drawing);
  try {
    const prediction = await server.predict(await pad.picture());
    if (prediction.id) history.add(prediction);
    if (current === drawing) show(prediction);
  } catch (error) {
    if (current === drawing) say(error.message);
  } finally {
    if (asked === current) asked = null;
  }
}

function show(prediction) {
  result.show(prediction);
  const digit = prediction.predicted_digit;
  if (!prediction.id) say("Read, but not recorded: the record cannot be reached.");
  else if (prediction.uncertain) say(`Not sure. It looks most like ${article(digit)} ${digit}.`);
  else say("");
}

function article(digit) {
  return digit === 8 ? "an" : "a";
}

// One label after the other, so that the last one clicked is the one kept.
function label(digit) {
  labelled = labelled.then(async () => {
    if (!result.prediction) return;
    const { id, true_digit: before } = result.prediction;
    try {
      const prediction = await server.label(id, digit === before ? null : digit);
      history.update(prediction);
      if (result.prediction?.id !== id) return;
      result.show(prediction);
      say(prediction.true_digit === null ? "Label taken back." : `Kept: it was ${article(digit)} ${digit}.`);
    } catch (error) {
      say(error.message);
    }
  });
}

element("predict").addEventListener("click", predict);
element("undo").addEventListener("click", () => pad.undo());
element("clear").addEventListener("click", () => {
  pad.clear();
  element("pad").focus();
});
element("feedback").addEventListener("click", (event) => {
  const digit = event.target.closest("[data-digit]")?.dataset.digit;
  if (digit !== undefined) label(Number(digit));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") element("clear").click();
  else if (event.key === "z" && (event.ctrlKey || event.metaKey)) pad.undo();
  // On a button, Enter presses that button.
  else if (event.key === "Enter" && !event.repeat && !event.target.closest("button")) predict();
  else return;
  event.preventDefault();
});

server.recent(ROWS).then(
  (predictions) => history.fill(predictions),
  (error) => say(error.message),
);
