// Shows what the model says of the drawing, and asks what it really was.

export class Result {
  #element;
  prediction = null;

  constructor(element) {
    this.#element = element;
    for (let digit = 0; digit < 10; digit++) {
      element("probabilities").append(this.#bar(digit));
      element("feedback").append(this.#button(digit));
    }
    this.clear();
  }

  show(prediction) {
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
    this.#offerLabels(Boolean(id), label);
  }

  clear() {
    this.prediction = null;
    const answer = this.#element("answer");
    answer.textContent = "";
    delete answer.dataset.predictionId;
    const sure = this.#element("confidence");
    delete sure.dataset.level;
    sure.querySelector(".value").textContent = "–";
    sure.querySelector(".bar span").style.width = "0";
    this.#fillBars(Array(10).fill(0), null);
    const seen = this.#element("seen");
    seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
    this.#offerLabels(false, null);
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

export function percent(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

// Draws the 28 × 28 bytes that the model saw, dark on light.
export function drawPixels(canvas, base64) {
  const ink = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const image = new ImageData(28, 28);
  ink.forEach((level, i) => image.data.set([255 - level, 255 - level, 255 - level, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}
