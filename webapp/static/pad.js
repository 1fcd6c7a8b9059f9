// A square to draw on. The strokes are the state, in units of the pad's edge; what is on the
// screen, and what is posted, are renderings of them. Knows no URL.

const PEN = 0.07; // width of the pen, of the pad's edge
const POSTED_EDGE = 280; // pixels, whatever the screen: its density must not reach the model

export class Pad {
  #canvas;
  #changed;
  #strokes = [];
  #stroke = null; // the one under way
  #pointer = null; // and what draws it

  constructor(canvas, changed) {
    this.#canvas = canvas;
    this.#changed = changed;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#extend(event));
    canvas.addEventListener("pointerup", (event) => this.#end(event));
    canvas.addEventListener("pointercancel", () => this.#cancel());
    new ResizeObserver(() => this.#render()).observe(canvas);
  }

  get isEmpty() {
    return this.#strokes.length === 0;
  }

  clear() {
    this.#stroke = null;
    this.#strokes = [];
    this.#render();
    this.#changed();
  }

  undo() {
    if (this.isEmpty) return;
    this.#stroke = null;
    this.#strokes.pop();
    this.#render();
    this.#changed();
  }

  // The drawing as a PNG, black on white.
  picture() {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = POSTED_EDGE;
    const pencil = canvas.getContext("2d");
    pencil.fillStyle = "white";
    pencil.fillRect(0, 0, POSTED_EDGE, POSTED_EDGE);
    draw(pencil, this.#strokes, POSTED_EDGE, "black");
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  #begin(event) {
    if (this.#stroke && event.pointerId !== this.#pointer) {
      this.#cancel(); // a second finger zooms the page
      return;
    }
    if (event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointer = event.pointerId;
    this.#stroke = [this.#point(event)];
    this.#strokes.push(this.#stroke);
    this.#render();
    this.#changed();
  }

  #extend(event) {
    if (!this.#stroke || event.pointerId !== this.#pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.#stroke.push(this.#point(each));
    this.#render();
  }

  #end(event) {
    if (!this.#stroke || event.pointerId !== this.#pointer) return;
    this.#stroke = null;
    this.#changed();
  }

  #cancel() {
    if (this.#stroke) this.undo();
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #render() {
    const edge = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (this.#canvas.width !== edge) this.#canvas.width = this.#canvas.height = edge;
    const pencil = this.#canvas.getContext("2d");
    pencil.clearRect(0, 0, edge, edge);
    draw(pencil, this.#strokes, edge, getComputedStyle(this.#canvas).color);
  }
}

// Draws strokes as smooth, round lines: curves through the middles between points.
function draw(pencil, strokes, edge, color) {
  pencil.lineWidth = PEN * edge;
  pencil.lineCap = pencil.lineJoin = "round";
  pencil.strokeStyle = color;
  for (const stroke of strokes) {
    const points = stroke.map(([x, y]) => [x * edge, y * edge]);
    pencil.beginPath();
    pencil.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) {
      const [[x, y], [nextX, nextY]] = [points[i], points[i + 1]];
      pencil.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    pencil.lineTo(...points.at(-1));
    pencil.stroke();
  }
}
