// A square to draw on, or to lay a picture on. The strokes are the state, in units of the pad's
// edge; what is on the screen, and what is posted, are renderings of them. Knows no URL.

const PEN = 0.07; // width of the pen, of the pad's edge
const POSTED_EDGE = 280; // pixels, whatever the screen: its density must not reach the model
const PICTURE_EDGE = 500; // of a picture's longer side, at most: what a slow phone sends in time

export class Pad {
  #canvas;
  #replaced; // told of another drawing: a stroke more or less, another picture
  #extended; // told of ink added to the stroke under way
  #strokes = [];
  #stroke = null; // the one under way
  #pointer = null; // and what draws it
  #picture = null;

  constructor(canvas, replaced, extended) {
    this.#canvas = canvas;
    this.#replaced = replaced;
    this.#extended = extended;
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
    return this.#strokes.length === 0 && this.#picture === null;
  }

  clear() {
    this.#replace([]);
  }

  undo() {
    if (!this.isEmpty) this.#replace(this.#strokes.slice(0, -1));
  }

  // Lays a picture on the pad in place of what is there.
  lay(picture) {
    this.#replace([], picture);
  }

  // What is on the pad, as a PNG's data URL: strokes in black on white, a picture as it is.
  image() {
    const canvas = document.createElement("canvas");
    const pencil = canvas.getContext("2d");
    if (this.#picture) {
      const { width, height } = this.#picture;
      const scale = Math.min(1, PICTURE_EDGE / Math.max(width, height));
      canvas.width = Math.ceil(width * scale);
      canvas.height = Math.ceil(height * scale);
      pencil.drawImage(this.#picture, 0, 0, canvas.width, canvas.height);
    } else {
      canvas.width = canvas.height = POSTED_EDGE;
      pencil.fillStyle = "white";
      pencil.fillRect(0, 0, POSTED_EDGE, POSTED_EDGE);
      draw(pencil, this.#strokes, POSTED_EDGE, "black");
    }
    return canvas.toDataURL(); // toBlob waits until the browser is idle, at worst for seconds
  }

  #replace(strokes, picture = null) {
    this.#stroke = null;
    this.#strokes = strokes;
    this.#picture = picture;
    this.#render();
    this.#replaced();
  }

  #begin(event) {
    if (this.#stroke) {
      // A second finger zooms the page; a palm beside the pen does nothing, one before it is undone.
      if (this.#pointer.type === "touch") this.undo();
      if (event.pointerType !== "pen") return;
    }
    if (event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    // Or a button let go outside the window would never be heard of. Scripts' pointers have none.
    if (event.isTrusted) this.#canvas.setPointerCapture(event.pointerId);
    const stroke = [this.#point(event)];
    this.#replace([...this.#strokes, stroke]);
    this.#pointer = { id: event.pointerId, type: event.pointerType };
    this.#stroke = stroke;
  }

  #extend(event) {
    if (!this.#isDrawing(event)) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) {
      const [x, y, width] = this.#point(each);
      this.#stroke.push([x, y, width]);
      if (Math.min(x, y) < 0 || Math.max(x, y) > 1) {
        this.#end(event); // a stroke that leaves the pad ends there
        break;
      }
    }
    this.#render();
    this.#extended();
  }

  #end(event) {
    if (this.#isDrawing(event)) this.#stroke = null;
  }

  #cancel(event) {
    if (this.#isDrawing(event)) this.undo();
  }

  #isDrawing(event) {
    return this.#stroke !== null && event.pointerId === this.#pointer.id;
  }

  // A point of a stroke: where, and how wide, of the pen's usual width.
  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    const width = event.pointerType === "pen" && event.pressure ? 0.5 + event.pressure : 1;
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, width];
  }

  #render() {
    const edge = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (this.#canvas.width !== edge) this.#canvas.width = this.#canvas.height = edge;
    const pencil = this.#canvas.getContext("2d");
    pencil.clearRect(0, 0, edge, edge);
    if (this.#picture) lay(pencil, this.#picture, edge);
    draw(pencil, this.#strokes, edge, getComputedStyle(this.#canvas).color);
  }
}

// Lays a picture in the middle of a square, as large as it fits.
function lay(pencil, picture, edge) {
  const scale = edge / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  pencil.drawImage(picture, (edge - width) / 2, (edge - height) / 2, width, height);
}

// Draws strokes as smooth, round lines: curves through the middles between points.
function draw(pencil, strokes, edge, color) {
  pencil.lineCap = pencil.lineJoin = "round";
  pencil.strokeStyle = pencil.fillStyle = color;
  for (const stroke of strokes) {
    const points = stroke.map(([x, y, width]) => [x * edge, y * edge, width * PEN * edge]);
    let [fromX, fromY, lineWidth] = points[0];
    pencil.beginPath();
    pencil.arc(fromX, fromY, lineWidth / 2, 0, 2 * Math.PI); // a line of no length would not show
    pencil.fill();
    pencil.beginPath();
    pencil.moveTo(fromX, fromY);
    for (let i = 1; i < points.length; i++) {
      const [x, y, width] = points[i];
      if (width !== lineWidth) {
        pencil.lineWidth = lineWidth;
        pencil.stroke();
        pencil.beginPath();
        pencil.moveTo(fromX, fromY);
        lineWidth = width;
      }
      const [nextX, nextY] = points[i + 1] ?? points[i];
      [fromX, fromY] = [(x + nextX) / 2, (y + nextY) / 2];
      pencil.quadraticCurveTo(x, y, fromX, fromY);
    }
    pencil.lineWidth = lineWidth;
    pencil.stroke();
  }
}
