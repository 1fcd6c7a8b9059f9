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
    addEventListener("pointermove", (event) => this.#extend(event));
    addEventListener("pointerup", (event) => this.#end(event));
    addEventListener("pointercancel", (event) => this.#cancel(event));
    // One finger draws and must not also fling the page: the tap after a fling would be swallowed.
    const draws = (event) => event.touches.length === 1 && event.preventDefault();
    canvas.addEventListener("touchmove", draws, { passive: false });
    new ResizeObserver(() => this.#render()).observe(canvas);
    // The ink has the text's color, which follows the system's.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#render());
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
    if (this.#stroke) {
      // A second finger zooms the page; a palm beside the pen does nothing.
      if (event.pointerType === "touch" && this.#pointer.type === "touch") this.undo();
      return;
    }
    if (event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    this.#pointer = { id: event.pointerId, type: event.pointerType };
    this.#stroke = [this.#point(event)];
    this.#strokes.push(this.#stroke);
    this.#render();
    this.#changed();
  }

  #extend(event) {
    if (!this.#isDrawing(event)) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) {
      const point = this.#point(each);
      this.#stroke.push(point);
      if (Math.min(...point) < 0 || Math.max(...point) > 1) {
        this.#end(event); // a stroke that leaves the pad ends there
        break;
      }
    }
    this.#render();
  }

  #end(event) {
    if (!this.#isDrawing(event)) return;
    this.#stroke = null;
    this.#changed();
  }

  #cancel(event) {
    if (this.#isDrawing(event)) this.undo();
  }

  #isDrawing(event) {
    return this.#stroke !== null && event.pointerId === this.#pointer.id;
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
    if (points.length === 1) {
      pencil.arc(...points[0], 0.5, 0, 2 * Math.PI); // a line of no length would not be drawn
    }
    pencil.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) {
      const [[x, y], [nextX, nextY]] = [points[i], points[i + 1]];
      pencil.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    pencil.lineTo(...points.at(-1));
    pencil.stroke();
  }
}
