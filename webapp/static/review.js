// The operator's page: shows one label after another, and sends the decisions in the background.

import { drawPixels, percent } from "./result.js";
import { Sender } from "./sender.js";
import * as server from "./server.js";

const TOKEN_KEY = "operator-token"; // In sessionStorage, which the browser deletes with the tab.
const FETCH_SIZE = 100;
const FETCH_BELOW = 40; // Fetch more when fewer predictions are left to review.

const element = (id) => document.getElementById(id);
const sender = new Sender(element("message"), element("retry"));

let token = sessionStorage.getItem(TOKEN_KEY);
let queue = []; // The predictions to review. The first one is shown.
let isComplete = false; // There are no more predictions on the server.
const knownIds = new Set(); // Of all predictions that have been in the queue.
const decisions = []; // What was decided in this tab, for undo: { prediction, label }.
let isFetching = false;

// ---- Server ----------------------------------------------------------------------------------

async function fetchQueue() {
  if (isFetching || isComplete || !token || queue.length >= FETCH_BELOW) return;
  isFetching = true;
  try {
    const { predictions } = await sender.load(() => authorized(server.listForReview, FETCH_SIZE));
    isComplete = predictions.length < FETCH_SIZE;
    for (const prediction of predictions) {
      if (!knownIds.has(prediction.id)) queue.push(prediction);
      knownIds.add(prediction.id);
    }
  } catch (error) {
    sender.showMessage(error.message);
  }
  isFetching = false;
  render();
}

// Calls the server with the operator's token, and asks for it again until the server accepts it.
async function authorized(call, ...values) {
  for (;;) {
    try {
      return await call(...values, token);
    } catch (error) {
      if (error.status !== 401) throw error;
      sender.showMessage(error.message);
      signOut();
      await new Promise((resolve) => element("sign-in").addEventListener("submit", resolve, { once: true }));
    }
  }
}

// ---- Decisions -------------------------------------------------------------------------------

// Confirms or corrects the label of the prediction on display. Null: it is not a digit.
function decide(digit) {
  if (!queue.length) return;
  const prediction = queue.shift();
  const label = { true_digit: digit, review: digit === null ? "rejected" : "accepted" };
  decisions.push({ prediction, label });
  send(prediction.id, label);
}

function undo() {
  const { prediction } = decisions.pop() ?? {};
  if (!prediction) return;
  queue.unshift(prediction);
  send(prediction.id, { true_digit: prediction.true_digit, review: null });
}

async function send(id, label) {
  render();
  fetchQueue();
  try {
    await sender.save("label", () => authorized(server.reviewLabel, id, label));
  } catch (error) {
    sender.showMessage(`Not saved: ${error.message}`); // For example because the prediction was deleted.
  }
  fetchQueue(); // The response no longer contains the label that was just saved.
}

// ---- Display ---------------------------------------------------------------------------------

function render() {
  element("sign-in").hidden = Boolean(token);
  element("review").hidden = !token;
  element("undo").disabled = !decisions.length;
  const [prediction] = queue;
  for (const button of element("digits").children) {
    button.disabled = !prediction;
    button.setAttribute("aria-pressed", button.dataset.digit === String(prediction?.true_digit));
  }
  element("picture").hidden = !prediction;
  if (prediction) {
    const { pixels, true_digit: label, predicted_digit: digit, confidence } = prediction;
    drawPixels(element("picture"), pixels);
    element("question").textContent = `Label ${label}, prediction ${digit} (${percent(confidence)})`;
  } else {
    element("question").textContent = isComplete ? "There is nothing left to review." : "Loading…";
  }
  element("progress").textContent = describeProgress();
}

// Estimates the error rate of labels from the random sample: those that agree with a certain prediction.
function describeProgress() {
  const sample = decisions.filter(
    ({ prediction }) => prediction.true_digit === prediction.predicted_digit && !prediction.uncertain,
  );
  const wrong = sample.filter(({ prediction, label }) => label.true_digit !== prediction.true_digit);
  const estimate = `Random sample: ${wrong.length} of ${sample.length} labels were wrong.`;
  return `Reviewed: ${decisions.length}. ${sample.length ? estimate : ""}`.trim();
}

// ---- Events ----------------------------------------------------------------------------------

function signIn(event) {
  event.preventDefault();
  token = element("token").value;
  sessionStorage.setItem(TOKEN_KEY, token);
  element("token").value = "";
  sender.showMessage("");
  render();
  fetchQueue();
}

function signOut() {
  token = null;
  sessionStorage.removeItem(TOKEN_KEY);
  render();
  element("token").focus();
}

element("sign-in").addEventListener("submit", signIn);
element("digits").addEventListener("click", (event) => {
  const digit = event.target.closest("button")?.dataset.digit;
  if (digit !== undefined) decide(digit === "" ? null : Number(digit));
});
element("undo").addEventListener("click", undo);
document.addEventListener("keydown", (event) => {
  const { key, repeat, ctrlKey, metaKey, altKey, target } = event;
  if (!token || repeat || ctrlKey || metaKey || altKey || target.tagName === "INPUT") return;
  if (/^\d$/.test(key)) decide(Number(key));
  else if (key.toLowerCase() === "x") decide(null);
  else if (key.toLowerCase() === "u") undo();
});

render();
fetchQueue();
