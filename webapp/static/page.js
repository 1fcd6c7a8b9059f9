// Connects the parts of the page.

import { History } from "./history.js";
import { onImage } from "./image-input.js";
import { Pad } from "./pad.js";
import { Result } from "./result.js";
import { Sender } from "./sender.js";
import * as server from "./server.js";
import { Stats } from "./stats.js";

const PREVIEW_INTERVAL_MS = 60;
const STROKES_KEY = "strokes"; // In sessionStorage, which the browser deletes with the tab.
const DOUBTS = {
  several_digits: "There seems to be more than one digit. Draw or crop one at a time.",
  unclear_picture: "No clear digit was found: it may be cut off, or too thick for a pen. Crop the image, or take another photo.",
};

const element = (id) => document.getElementById(id);
const result = new Result(element);
const stats = new Stats(element("stats"));
const sender = new Sender(element("message"), element("retry"));
const history = new History(element("recent"), {
  fetchPage: (query, isWanted) => sender.load(() => server.listPredictions(query), isWanted),
  onSelect: showStored,
  onError: showError,
});
const pad = new Pad(element("pad"), { onReplace, onExtend, onCropping });

let drawingNumber = 0; // Increases with each stroke or image, so that previews of older ones can be dropped.
let revision = 0; // Increases with each change on the pad.
let previewedRevision = 0; // The last revision that was sent for a preview.
let submittedRevision = null; // The revision that is stored, or is being sent to be stored.
let isPreviewing = false;

function showMessage(text) {
  sender.showMessage(text);
}

function showError(error) {
  showMessage(error.message);
}

// ---- Previews --------------------------------------------------------------------------------

function onReplace() {
  drawingNumber += 1;
  element("crop").hidden = !pad.hasImage;
  showMessage("");
  if (pad.isEmpty) result.clear();
  onExtend();
}

function onCropping(isCropping) {
  element("crop").setAttribute("aria-pressed", isCropping);
  showMessage(isCropping ? "Drag a rectangle around the digit. Arrow keys move it, with Shift they resize it, and Enter crops." : "");
}

function onExtend() {
  revision += 1;
  if (result.isStored) {
    result.markOutdated();
    showMessage("");
  }
  previewLoop();
}

// Predicts the drawing while it grows. There is at most one preview request at a time.
async function previewLoop() {
  const isCurrent = previewedRevision === revision || submittedRevision === revision;
  if (isPreviewing || isCurrent || pad.isEmpty || document.hidden) return;
  isPreviewing = true;
  previewedRevision = revision;
  const previewedNumber = drawingNumber;
  let pauseMs = PREVIEW_INTERVAL_MS;
  try {
    const prediction = await server.preview(pad.drawing);
    if (previewedNumber === drawingNumber && !result.isStored) result.show(prediction);
  } catch (error) {
    if (previewedNumber === drawingNumber && !result.isStored) result.clear();
    // A rate limit only pauses the previews.
    if (error.retryAfter) pauseMs = 1000 * error.retryAfter;
    else if (previewedNumber === drawingNumber && !sender.isWaiting) showError(error);
  }
  await new Promise((resolve) => setTimeout(resolve, pauseMs));
  isPreviewing = false;
  previewLoop();
}

// ---- Predictions and labels ------------------------------------------------------------------

async function predict() {
  if (pad.isEmpty) return showMessage("Draw a digit first.");
  if (submittedRevision === revision) return sender.retry(); // Does nothing unless the request has failed.
  showMessage("");
  const submitted = (submittedRevision = revision);
  const key = randomKey(); // The same for all retries, so that the prediction is stored once.
  try {
    const submittedDrawing = pad.drawing;
    // One after another: the first response sets the visitor cookie for the later requests.
    const prediction = await sender.save("prediction", async () => {
      const prediction = await server.createPrediction(submittedDrawing, key);
      if (prediction.id) return prediction;
      if (submitted === revision) result.show(prediction);
      throw new Error("The database is unavailable.");
    });
    history.add(prediction);
    if (submitted === revision) showPrediction(prediction);
  } catch (error) {
    if (submittedRevision === submitted) submittedRevision = null;
    if (submitted === revision) showError(error);
  }
}

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // crypto.randomUUID needs HTTPS.
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function showPrediction(prediction) {
  result.show(prediction);
  const digit = prediction.predicted_digit;
  if (prediction.uncertain) showMessage(`${DOUBTS[prediction.doubt] ?? "Not sure."} Best guess: ${digit}.`);
  else showMessage(`Prediction saved: ${digit}.`);
}

function showStored(prediction) {
  submittedRevision = null;
  result.show(prediction);
  showMessage("Showing a saved prediction.");
}

// Labels the prediction on display. The same label again removes it.
function toggleLabel(digit) {
  if (!result.isStored) return;
  const { id, true_digit: label } = result.prediction;
  saveLabel(id, digit === label ? null : digit);
}

async function saveLabel(id, digit) {
  showMessage("");
  try {
    // One after another, so that the last label wins.
    const prediction = await sender.save("label", () => server.setLabel(id, digit));
    history.update(prediction);
    if (result.prediction?.id === id) {
      result.show(prediction);
      showMessage(digit === null ? "Label removed." : `Label saved: ${digit}.`);
    }
    loadStats().catch(() => {}); // The label is saved even if the statistics cannot be loaded.
  } catch (error) {
    showError(error);
  }
}

// ---- Deletions -------------------------------------------------------------------------------

async function deletePrediction() {
  const { id } = result.prediction;
  try {
    await server.deletePrediction(id);
    history.remove(id);
    if (result.prediction?.id === id) forgetStored();
    showMessage("Prediction deleted.");
    loadStats().catch(() => {});
  } catch (error) {
    showError(error);
  }
}

async function deleteMine() {
  try {
    const { deleted } = await server.deleteMine();
    if (result.isStored) forgetStored();
    if (!element("recent").hidden) history.reload();
    showMessage(
      deleted ? `Deleted ${deleted} ${deleted === 1 ? "prediction" : "predictions"}.` : "This browser has stored no predictions.",
    );
    loadStats().catch(() => {});
  } catch (error) {
    showError(error);
  }
}

// The prediction on display is no longer stored: the drawing can be stored again.
function forgetStored() {
  submittedRevision = null;
  result.markOutdated();
}

async function loadStats() {
  stats.show(await server.getStats());
}

async function loadModel() {
  stats.showModel(await server.getModel());
}

// Keeps an unsaved drawing while the tab shows another page or is discarded.
function keepDrawing() {
  const isStored = submittedRevision === revision && result.isStored;
  try {
    sessionStorage.setItem(STROKES_KEY, JSON.stringify(isStored ? [] : pad.strokes));
  } catch {} // The browser may block storage.
}

function restoreDrawing() {
  try {
    pad.strokes = JSON.parse(sessionStorage.getItem(STROKES_KEY)) ?? [];
  } catch {}
}

// ---- Events ----------------------------------------------------------------------------------

element("predict").addEventListener("click", predict);
element("crop").addEventListener("click", () => pad.startCropping());
element("undo").addEventListener("click", () => pad.undo());
element("clear").addEventListener("click", () => {
  pad.strokes = [];
  element("pad").focus();
});
element("feedback").addEventListener("click", (event) => {
  const digit = event.target.closest("[data-digit]")?.dataset.digit;
  if (digit !== undefined) toggleLabel(Number(digit));
});
element("delete").addEventListener("click", deletePrediction);
element("delete-mine").addEventListener("click", deleteMine);
document.addEventListener("keydown", (event) => {
  const hasCommand = event.ctrlKey || event.metaKey;
  const control = event.target.closest("button, select, input"); // These use some keys themselves.
  if (event.key === "z" && hasCommand) pad.undo();
  else if (event.repeat) return;
  else if (event.key === "Escape") element("clear").click();
  else if (event.key === "Enter" && !control) predict();
  else if (/^\d$/.test(event.key) && !hasCommand && !event.altKey && control?.tagName !== "SELECT") {
    toggleLabel(Number(event.key));
  } else return;
  event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) keepDrawing();
  previewLoop();
});
onImage(element("file"), { onImage: (image, file) => pad.showImage(image, file), onError: showMessage });

restoreDrawing();
if (!element("recent").hidden) history.load();
for (const part of [loadStats, loadModel]) sender.load(part).catch(showError);
