// Where the parts of the page meet.

import { bring } from "./bring.js";
import { History } from "./history.js";
import { Pad } from "./pad.js";
import { Result } from "./result.js";
import * as server from "./server.js";
import { Stats } from "./stats.js";

const PACE_MS = 60; // from one look at a drawing under way to the next

const element = (id) => document.getElementById(id);
const result = new Result(element);
const stats = new Stats(element("stats"));
const history = new History(element("record"), server.recent, showAgain, complain);
const pad = new Pad(element("pad"), replaced, extended);

let drawing = 0; // counts drawings, so that an answer to an older one is dropped
let revision = 0; // counts changes of what is on the pad
let followed = 0; // the revision that was last looked at
let following = false;
let asked = null; // the revision that is recorded, or about to be
let predicted = Promise.resolve();
let labelled = Promise.resolve();

function say(text, again = null) {
  element("message").textContent = text;
  element("retry").hidden = again === null;
  element("retry").onclick = again;
}

function complain(error, again = null) {
  say(error.message, again);
}

// ---- while drawing ---------------------------------------------------------------------------

function replaced() {
  drawing += 1;
  say("");
  if (pad.isEmpty) result.clear();
  extended();
}

function extended() {
  revision += 1;
  if (result.isRecorded) {
    result.release();
    say("");
  }
  follow();
}

// Shows what the model makes of the drawing so far; one request at a time.
async function follow() {
  if (following || followed === revision || pad.isEmpty || document.hidden || asked === revision) return;
  following = true;
  followed = revision;
  const current = drawing;
  let pause = PACE_MS;
  try {
    const answer = await server.preview(pad.image());
    if (current === drawing && !result.isRecorded) result.show(answer);
  } catch (error) {
    if (current === drawing && !result.isRecorded) result.clear();
    if (error.wait) pause = 1000 * error.wait; // too fast: only Predict's own refusal is news
    else if (current === drawing && element("retry").hidden) complain(error); // no offer is withdrawn
  }
  await new Promise((resolve) => setTimeout(resolve, pause));
  following = false;
  follow();
}

// ---- predicting and labelling ----------------------------------------------------------------

async function predict() {
  if (pad.isEmpty) return say("There is nothing to read yet: draw a digit first.");
  if (asked === revision) return; // a second tap, or a key held down
  const current = (asked = revision);
  const image = pad.image();
  // One after the other, or the first two would be by two visitors, of whom the browser is one.
  const answer = predicted.then(() => server.predict(image));
  predicted = answer.catch(() => {});
  try {
    const prediction = await answer;
    if (prediction.id) history.add(prediction);
    else if (asked === current) asked = null;
    if (current === revision) show(prediction);
  } catch (error) {
    if (asked === current) asked = null;
    if (current === revision) complain(error, predict);
  }
}

function show(prediction) {
  result.show(prediction);
  const digit = withArticle(prediction.predicted_digit);
  if (!prediction.id) say("Read, but not recorded: the record cannot be reached.", predict);
  else if (prediction.uncertain) say(`Not sure. It looks most like ${digit}.`);
  else say(`Read as ${digit}, and recorded.`);
}

function showAgain(prediction) {
  asked = null;
  result.show(prediction);
  say("Shown again from the record.");
}

function withArticle(digit) {
  return digit === 8 ? "an 8" : `a ${digit}`;
}

function label(digit) {
  if (!result.isRecorded) return;
  const { id, true_digit: before } = result.prediction;
  keep(id, digit === before ? null : digit);
}

// One label after the other, so that the last one given is the one kept.
function keep(id, digit) {
  labelled = labelled.then(async () => {
    try {
      const prediction = await server.label(id, digit);
      history.update(prediction);
      if (result.prediction?.id === id) {
        result.show(prediction);
        say(digit === null ? "Label taken back." : `Kept: it was ${withArticle(digit)}.`);
      }
      showStats().catch(() => {}); // the news is that the label is kept
    } catch (error) {
      complain(error, () => keep(id, digit));
    }
  });
}

async function showStats() {
  stats.show(await server.stats());
}

// ---- what the person does --------------------------------------------------------------------

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
  const command = event.ctrlKey || event.metaKey;
  const control = event.target.closest("button, select, input"); // has its own use for keys
  if (event.key === "z" && command) pad.undo();
  else if (event.repeat) return;
  else if (event.key === "Escape") element("clear").click();
  else if (event.key === "Enter" && !control) predict();
  else if (/^\d$/.test(event.key) && !command && !event.altKey && control?.tagName !== "SELECT") {
    label(Number(event.key));
  } else return;
  event.preventDefault();
});
document.addEventListener("visibilitychange", follow);
bring(element("file"), (picture) => pad.lay(picture), say);

function load(part) {
  part().catch((error) => complain(error, () => load(part)));
}

history.load();
load(showStats);
load(async () => stats.showModel(await server.model()));
