// A square drawing area, which can also show an image. The strokes are the state, in units of the
// pad's edge. They are rendered on the screen and sent to the server, which renders them the same way.

const PEN_WIDTH = 0.07; // In units of the pad's edge.
const ZOOM_MS = 200; // Two fingers that touch the pad within this time of each other zoom the page.
const REST = 0.03; // A finger that moves less than this share of the pad's edge is resting.
const SENT_TYPES = ["image/png", "image/jpeg", "image/webp"];
// Larger images are scaled down, so that a slow connection can send them before the time-out.
const MAX_IMAGE_EDGE_PX = 500;

export class Pad {
  #canvas;
  #onReplace;
  #onExtend;
  #onCropping;
  #strokes = [];
  #stroke = null; // The stroke that is being drawn.
  #pointer = null; // The pointer that draws it.
  #image = null;
  #file = null; // The file of the image, if it can be sent as it is.
  #crop = null; // The rectangle to crop the image to: x, y, width, height, in units of the pad's edge.
  #corner = null; // Where the pointer began to drag it.

  // Calls onReplace when a stroke is added or removed or the image changes, onExtend when the stroke
  // that is being drawn gets longer, and onCropping with true when cropping starts and with false
  // when it ends.
  constructor(canvas, { onReplace, onExtend, onCropping }) {
    this.#canvas = canvas;
    this.#onReplace = onReplace;
    this.#onExtend = onExtend;
    this.#onCropping = onCropping;
    canvas.addEventListener("keydown", (event) => this.#editCrop(event));
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    addEventListener("pointermove", (event) => this.#extend(event));
    addEventListener("pointerup", (event) => this.#end(event));
    addEventListener("pointercancel", (event) => this.#cancel(event));
    // One finger must not scroll the page: the browser would ignore the next tap while it scrolls.
    // Two fingers on the pad zoom the page; another one that rests elsewhere does not matter.
    const preventScrolling = (event) => {
      const mayZoom = event.touches.length > 1 && event.targetTouches.length !== 1;
      if (this.#stroke || !mayZoom) event.preventDefault();
    };
    canvas.addEventListener("touchmove", preventScrolling, { passive: false });
    new ResizeObserver(() => this.#render()).observe(canvas);
    // The ink has the color of the text, which depends on the color scheme.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#render());
  }

  get isEmpty() {
    return this.#strokes.length === 0 && this.#image === null;
  }

  get hasImage() {
    return this.#image !== null;
  }

  get strokes() {
    return this.#strokes;
  }

  // Replaces the drawing with strokes.
  set strokes(strokes) {
    this.#replace(strokes);
  }

  // Removes the last stroke, or the image.
  undo() {
    if (!this.isEmpty) this.#replace(this.#strokes.slice(0, -1));
  }

  // Replaces the drawing with an image. The original file is sent if the server accepts its type.
  showImage(image, file) {
    this.#replace([], image, SENT_TYPES.includes(file.type) ? file : null);
  }

  // Lets the user choose a rectangle of the image; called again, crops the image to it.
  startCropping() {
    if (this.#crop) return this.#cropImage();
    this.#crop = [0.25, 0.25, 0.5, 0.5];
    this.#canvas.focus({ preventScroll: true });
    this.#render();
    this.#onCropping(true);
  }

  // Replaces the image with a part of it, in its full resolution.
  #cropImage() {
    const { width, height } = this.#image;
    const edge = Math.max(width, height);
    const [x, y, cropWidth, cropHeight] = this.#crop.map((length) => Math.round(length * edge));
    const left = Math.max(0, x - (edge - width) / 2);
    const top = Math.max(0, y - (edge - height) / 2);
    const right = Math.min(width, x - (edge - width) / 2 + cropWidth);
    const bottom = Math.min(height, y - (edge - height) / 2 + cropHeight);
    if (right - left < 8 || bottom - top < 8) return this.#endCropping();
    const part = document.createElement("canvas");
    part.width = right - left;
    part.height = bottom - top;
    part.getContext("2d").drawImage(this.#image, -left, -top);
    this.#replace([], part);
  }

  #endCropping() {
    this.#crop = this.#corner = null;
    this.#onCropping(false);
    this.#render();
  }

  // Arrow keys move the rectangle; with Shift, they change its size. Enter crops, Escape cancels.
  #editCrop(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (!this.#crop || !(step || event.key === "Enter" || event.key === "Escape")) return;
    event.preventDefault();
    event.stopPropagation(); // The page uses some of these keys, too.
    if (event.key === "Enter") return this.#cropImage();
    if (event.key === "Escape") return this.#endCropping();
    const [x, y, width, height] = this.#crop;
    const [dx, dy] = step.map((direction) => direction * 0.025);
    this.#crop = event.shiftKey
      ? [x, y, clamp(width + dx, 0.05, 1 - x), clamp(height + dy, 0.05, 1 - y)]
      : [clamp(x + dx, 0, 1 - width), clamp(y + dy, 0, 1 - height), width, height];
    this.#render();
  }

  #dragCrop(event) {
    const [x, y] = this.#toPoint(event).map((value) => clamp(value, 0, 1));
    const [fromX, fromY] = this.#corner;
    this.#crop = [Math.min(x, fromX), Math.min(y, fromY), Math.abs(x - fromX), Math.abs(y - fromY)];
    this.#render();
  }

  // Returns what the server classifies: the strokes, or a file or a data URL of the image.
  get drawing() {
    if (!this.#image) return { strokes: this.#strokes.map((stroke) => stroke.map(toSentPoint)) };
    const { width, height } = this.#image;
    const scale = Math.min(1, MAX_IMAGE_EDGE_PX / Math.max(width, height));
    if (scale === 1 && this.#file) return this.#file;
    const canvas = document.createElement("canvas");
    canvas.width = Math.ceil(width * scale);
    canvas.height = Math.ceil(height * scale);
    canvas.getContext("2d").drawImage(this.#image, 0, 0, canvas.width, canvas.height);
    const image = canvas.toDataURL(); // toBlob runs when the browser is idle, which can take seconds.
    if (!isFalsified(canvas)) return { image };
    if (this.#file) return this.#file;
    throw new Error("This browser alters images that a page crops or converts. Choose a PNG, JPEG or WebP file.");
  }

  #replace(strokes, image = null, file = null) {
    if (this.#crop) this.#endCropping();
    this.#stroke = null;
    this.#strokes = strokes;
    this.#image = image;
    this.#file = file;
    this.#render();
    this.#onReplace();
  }

  #begin(event) {
    if (event.button !== 0 || (this.#stroke && !this.#givesWayTo(event))) return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    // Without capture, a mouse button released outside the window would go unnoticed. Events that
    // a script dispatches have no pointer to capture.
    if (event.isTrusted) this.#canvas.setPointerCapture(event.pointerId);
    this.#pointer = { id: event.pointerId, type: event.pointerType, downAt: event.timeStamp };
    if (this.#crop) {
      this.#corner = this.#toPoint(event);
      return;
    }
    const stroke = [this.#toPoint(event)];
    this.#replace([...this.#strokes, stroke]);
    this.#stroke = stroke;
  }

  // Returns whether a new pointer takes over from the one that is drawing. The current stroke is
  // removed if it comes from a palm that touched the pad before the pen, from a finger that only
  // rests on the pad, or from the first of two fingers that zoom the page. Other touches are ignored.
  #givesWayTo(event) {
    if (this.#pointer.type !== "touch") return false;
    const isPen = event.pointerType === "pen";
    const isZooming = !isPen && event.timeStamp - this.#pointer.downAt < ZOOM_MS;
    const [[startX, startY]] = this.#stroke;
    const isResting = this.#stroke.every(([x, y]) => Math.hypot(x - startX, y - startY) < REST);
    if (isPen || isZooming || isResting) this.undo();
    return isPen || (isResting && !isZooming);
  }

  #extend(event) {
    if (this.#isDraggingCrop(event)) this.#dragCrop(event);
    if (!this.#isDrawing(event)) return;
    const coalesced = event.getCoalescedEvents?.() ?? [];
    for (const each of coalesced.length ? coalesced : [event]) {
      const point = this.#toPoint(each);
      const inside = clip(this.#stroke.at(-1), point);
      this.#stroke.push(inside);
      if (inside !== point) {
        this.#end(event); // The stroke ends where it leaves the pad.
        break;
      }
    }
    this.#render();
    this.#onExtend();
  }

  #end(event) {
    if (this.#isDraggingCrop(event)) this.#cropImage();
    if (this.#isDrawing(event)) this.#stroke = null;
  }

  #cancel(event) {
    if (this.#isDraggingCrop(event)) this.#endCropping();
    if (this.#isDrawing(event)) this.undo();
  }

  #isDraggingCrop(event) {
    return this.#corner !== null && event.pointerId === this.#pointer.id;
  }

  #isDrawing(event) {
    return this.#stroke !== null && event.pointerId === this.#pointer.id;
  }

  // Returns [x, y, width]: the position in units of the pad's edge, the width relative to PEN_WIDTH.
  #toPoint(event) {
    const box = this.#canvas.getBoundingClientRect();
    const width = event.pointerType === "pen" && event.pressure ? 0.5 + event.pressure : 1;
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, width];
  }

  #render() {
    const edge = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (this.#canvas.width !== edge) this.#canvas.width = this.#canvas.height = edge;
    const ctx = this.#canvas.getContext("2d");
    ctx.clearRect(0, 0, edge, edge);
    if (this.#image) drawCentered(ctx, this.#image, edge);
    drawStrokes(ctx, this.#strokes, edge, getComputedStyle(this.#canvas).color);
    if (this.#crop) drawCrop(ctx, this.#crop.map((length) => length * edge), edge);
  }
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// Returns the second point or, if it is outside, the point where the line to it leaves the pad.
function clip([fromX, fromY], point) {
  const [x, y, width] = point;
  const share = Math.min(shareInside(fromX, x), shareInside(fromY, y));
  if (share === 1) return point;
  return [fromX + share * (x - fromX), fromY + share * (y - fromY), width];
}

// Returns the share of the way from one coordinate to another on which it stays between 0 and 1.
function shareInside(from, to) {
  if (to > 1) return (1 - from) / (to - from);
  return to < 0 ? from / (from - to) : 1;
}

// Returns a point as the server expects it: rounded, and with the width in units of the pad's edge.
function toSentPoint([x, y, width]) {
  const round = (value) => Math.round(1e4 * clamp(value, 0, 1)) / 1e4;
  return [round(x), round(y), round(width * PEN_WIDTH)];
}

// Returns whether the browser replaces the pixels that a page reads from a canvas with noise or one
// color, to prevent fingerprinting.
function isFalsified(canvas) {
  const ctx = canvas.getContext("2d");
  const [black, again, white] = ["black", "black", "white"].map((color) => {
    ctx.fillStyle = color;
    ctx.fillRect(0, 0, canvas.width, canvas.height);
    return canvas.toDataURL();
  });
  return black !== again || black === white;
}

// Draws an image in the middle of a square, as large as possible.
function drawCentered(ctx, image, edge) {
  const scale = edge / Math.max(image.width, image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  ctx.drawImage(image, (edge - width) / 2, (edge - height) / 2, width, height);
}

// Darkens the part of the image that cropping to a rectangle removes.
function drawCrop(ctx, [x, y, width, height], edge) {
  ctx.fillStyle = "rgb(0 0 0 / 50%)";
  ctx.beginPath();
  ctx.rect(0, 0, edge, edge);
  ctx.rect(x, y, width, height);
  ctx.fill("evenodd");
  ctx.lineWidth = 2;
  ctx.strokeStyle = "white";
  ctx.strokeRect(x, y, width, height);
}

// Draws each stroke as a smooth line: quadratic curves that join halfway between the points.
function drawStrokes(ctx, strokes, edge, color) {
  ctx.lineCap = ctx.lineJoin = "round";
  ctx.strokeStyle = ctx.fillStyle = color;
  for (const stroke of strokes) {
    const points = stroke.map(([x, y, width]) => [x * edge, y * edge, width * PEN_WIDTH * edge]);
    let [fromX, fromY, lineWidth] = points[0];
    ctx.beginPath();
    ctx.arc(fromX, fromY, lineWidth / 2, 0, 2 * Math.PI); // A line of zero length would be invisible.
    ctx.fill();
    ctx.beginPath();
    ctx.moveTo(fromX, fromY);
    for (let i = 1; i < points.length; i++) {
      const [x, y, width] = points[i];
      if (width !== lineWidth) {
        ctx.lineWidth = lineWidth;
        ctx.stroke();
        ctx.beginPath();
        ctx.moveTo(fromX, fromY);
        lineWidth = width;
      }
      const [nextX, nextY] = points[i + 1] ?? points[i];
      [fromX, fromY] = [(x + nextX) / 2, (y + nextY) / 2];
      ctx.quadraticCurveTo(x, y, fromX, fromY);
    }
    ctx.lineWidth = lineWidth;
    ctx.stroke();
  }
}
