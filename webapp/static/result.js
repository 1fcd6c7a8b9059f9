// Shows the prediction for the drawing, and the buttons that label it.

export class Result {
  #element;
  // The prediction on display, or null once the drawing has changed.
  prediction = null;

  constructor(element) {
    this.#element = element;
    for (let digit = 0; digit < 10; digit++) {
      element("probabilities").append(createProbabilityRow(digit));
      element("feedback").append(createLabelButton(digit));
    }
    this.clear();
  }

  get isStored() {
    return Boolean(this.prediction?.id);
  }

  show(prediction) {
    this.markOutdated();
    this.prediction = prediction;
    const { id, predicted_digit: digit, confidence, probabilities, true_digit: label } = prediction;
    const answer = this.#element("answer");
    answer.textContent = digit;
    if (id) answer.dataset.predictionId = id;
    const meter = this.#element("confidence");
    meter.dataset.level = prediction.uncertain ? "low" : confidence < 0.95 ? "medium" : "high";
    meter.querySelector(".value").textContent = percent(confidence);
    meter.querySelector(".bar span").style.width = `${100 * confidence}%`;
    this.#showProbabilities(probabilities, digit);
    drawPixels(this.#element("seen"), prediction.pixels);
    this.#updateButtons(this.isStored, label);
  }

  // Keeps the prediction on display, but it can no longer be labelled: the drawing has changed.
  markOutdated() {
    this.prediction = null;
    delete this.#element("answer").dataset.predictionId;
    this.#updateButtons(false, null);
  }

  clear() {
    this.markOutdated();
    this.#element("answer").textContent = "";
    const meter = this.#element("confidence");
    delete meter.dataset.level;
    meter.querySelector(".value").textContent = "–";
    meter.querySelector(".bar span").style.width = "0";
    this.#showProbabilities(Array(10).fill(0), null);
    const seen = this.#element("seen");
    seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
  }

  #updateButtons(enabled, label) {
    this.#element("delete").disabled = !enabled;
    for (const button of this.#element("feedback").querySelectorAll("button")) {
      button.disabled = !enabled;
      button.setAttribute("aria-pressed", Number(button.dataset.digit) === label);
    }
  }

  #showProbabilities(probabilities, predictedDigit) {
    for (const [digit, row] of [...this.#element("probabilities").children].entries()) {
      const probability = probabilities[digit];
      row.classList.toggle("winner", digit === predictedDigit);
      row.querySelector(".bar span").style.width = `${100 * probability}%`;
      row.querySelector(".value").textContent = predictedDigit === null ? "" : percent(probability);
    }
  }
}

function createProbabilityRow(digit) {
  const row = document.createElement("li");
  const [name, bar, value] = ["digit", "bar", "value"].map((className) => {
    const span = document.createElement("span");
    span.className = className;
    return span;
  });
  name.textContent = digit;
  bar.append(document.createElement("span"));
  row.append(name, bar, value);
  return row;
}

function createLabelButton(digit) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.digit = button.textContent = digit;
  return button;
}

// Formats a fraction of 1 as a percentage.
export function percent(fraction, decimals = 1) {
  return `${(100 * fraction).toFixed(decimals)}\u00a0%`;
}

// Draws the model's input, 28 × 28 bytes in base64, as dark ink on white.
export function drawPixels(canvas, base64) {
  const ink = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const image = new ImageData(28, 28);
  ink.forEach((level, i) => image.data.set([255 - level, 255 - level, 255 - level, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}
