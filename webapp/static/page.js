// Where the parts of the page meet.

import { History } from "./history.js";
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

function say(text) {
  element("message").textContent = text;
}

async function predict() {
  if (pad.isEmpty) {
    say("There is nothing to read yet: draw a digit first.");
    return;
  }
  const asked = drawing;
  await trying(async () => {
    const prediction = await server.predict(await pad.picture());
    if (prediction.id) history.add(prediction);
    if (asked !== drawing) return;
    result.show(prediction);
    if (!prediction.id) say("Read, but not recorded: the record cannot be reached.");
    else if (prediction.uncertain) {
      say(`Not sure. It looks most like a ${prediction.predicted_digit}.`);
    } else say("");
  });
}

async function label(digit) {
  const { id, true_digit: before } = result.prediction;
  await trying(async () => {
    const prediction = await server.label(id, digit === before ? null : digit);
    history.update(prediction);
    if (result.prediction?.id === id) result.show(prediction);
    say(prediction.true_digit === null ? "Label taken back." : `Kept: it was a ${digit}.`);
  });
}

async function trying(action) {
  try {
    await action();
  } catch (error) {
    say(error.message);
  }
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
  else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) pad.undo();
  // On a button, Enter presses that button.
  else if (event.key === "Enter" && !event.target.closest("button")) predict();
  else return;
  event.preventDefault();
});

trying(async () => history.fill(await server.recent(50)));
