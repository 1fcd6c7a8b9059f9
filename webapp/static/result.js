// Shows what the model says of the drawing, and asks what it really was.

export class Result {
  #element;
  prediction = null; // what is shown, but for the answer to a drawing that has changed since

  constructor(element) {
    this.#element = element;
    for (let digit = 0; digit < 10; digit++) {
      element("probabilities").append(this.#bar(digit));
      element("feedback").append(this.#button(digit));
    }
    this.clear();
  }

  get isRecorded() {
    return Boolean(this.prediction?.id);
  }

  show(prediction) {
    this.release();
    this.prediction = prediction;
    const { id, predicted_digit: digit, confidence, probabilities, true_digit: label } = prediction;
    const answer = this.#element("answer");
    answer.textContent = digit;
    if (id) answer.dataset.predictionId = id;
    const sure = this.#element("confidence");
    sure.dataset.level = prediction.uncertain ? "low" : confidence < 0.95 ? "medium" : "high";
    sure.querySelector(".value").textContent = percent(confidence);
    sure.querySelector(".bar span").style.width = `${100 * confidence}%`;
    this.#fillBars(probabilities, digit);
    drawPixels(this.#element("seen"), prediction.pixels);
    this.#offerLabels(this.isRecorded, label);
  }

  // The drawing has changed: what is shown is no longer the recorded answer to it.
  release() {
    this.prediction = null;
    delete this.#element("answer").dataset.predictionId;
    this.#offerLabels(false, null);
  }

  clear() {
    this.release();
    this.#element("answer").textContent = "";
    const sure = this.#element("confidence");
    delete sure.dataset.level;
    sure.querySelector(".value").textContent = "–";
    sure.querySelector(".bar span").style.width = "0";
    this.#fillBars(Array(10).fill(0), null);
    const seen = this.#element("seen");
    seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
  }

  #offerLabels(enabled, label) {
    for (const button of this.#element("feedback").querySelectorAll("button")) {
      button.disabled = !enabled;
      button.setAttribute("aria-pressed", Number(button.dataset.digit) === label);
    }
  }

  #fillBars(probabilities, winner) {
    for (const [digit, row] of [...this.#element("probabilities").children].entries()) {
      row.classList.toggle("winner", digit === winner);
      row.querySelector(".bar span").style.width = `${100 * probabilities[digit]}%`;
      row.querySelector(".value").textContent = winner === null ? "" : percent(probabilities[digit]);
    }
  }

  #bar(digit) {
    const row = document.createElement("li");
    const [name, bar, value] = ["digit", "bar", "value"].map((part) => {
      const span = document.createElement("span");
      span.className = part;
      return span;
    });
    name.textContent = digit;
    bar.append(document.createElement("span"));
    row.append(name, bar, value);
    return row;
  }

  #button(digit) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.digit = button.textContent = digit;
    return button;
  }
}

export function percent(share, decimals = 1) {
  return `${(100 * share).toFixed(decimals)}\u00a0%`;
}

// Draws the 28 × 28 bytes that the model saw, dark on light.
export function drawPixels(canvas, base64) {
  const ink = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const image = new ImageData(28, 28);
  ink.forEach((level, i) => image.data.set([255 - level, 255 - level, 255 - level, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}
