"""Draw pen strokes with the renderer of the service, and vary them as different people would.

The pictures are prepared with the code of the service.
"""

import io
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from train.sources import Points
from webapp.decode import decode
from webapp.errors import BlankImage
from webapp.preprocess import IMAGE_PX, prepare
from webapp.strokes import render

CANVAS_PX = 280  # edge of the canvas for validation and test data
TRAIN_CANVAS_PX = 112  # a sixth of the pixels, to draw training data faster
VARIED_PENS = (0.02, 0.1)  # range of the pen's width, relative to the canvas
MAX_TREMOR = 0.012  # standard deviation of the points, relative to the drawing's size
LOW_RESOLUTION_SHARE = 0.06  # of varied drawings, drawn on 28 × 28 pixels and enlarged

Pixels = NDArray[np.uint8]
# Takes a random generator and the canvas edge in pixels; returns white ink on black.
Renderer = Callable[[np.random.Generator, int], Image.Image]


# ---- from strokes to pictures ----------------------------------------------------------------


def warp_strokes(strokes: list[Points], amplitude: float, rng: np.random.Generator) -> list[Points]:
    """Rotate, shear, stretch and warp the strokes, to imitate another writer.

    amplitude: standard deviation of the amplitude of two waves, relative to the drawing's size.
    """
    points = np.concatenate(strokes)
    points = (points - points.min(axis=0)) / max(np.ptp(points, axis=0).max(), 1e-6)
    for _ in range(2):
        waves, phase = rng.normal(0, 0.7, (2, 2)), rng.random(2)
        points = points + rng.normal(0, amplitude, 2) * np.sin(2 * np.pi * (points @ waves + phase))
    angle, shear, stretch = rng.normal(0, (0.09, 0.15, 0.1))
    shape = np.array([[math.exp(stretch), shear], [0, math.exp(-stretch)]])
    points = points @ (rotation(angle) @ shape).T
    return np.split(points, np.cumsum([len(stroke) for stroke in strokes])[:-1])


def rotation(angle: float) -> NDArray[np.float64]:
    """Return the matrix, [2, 2], that rotates a point (a column) by an angle in radians."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def roughen(strokes: list[Points], rng: np.random.Generator) -> list[Points]:
    """Imitate an unsteady hand and a busy browser, on the strokes of a drawing of size 1.

    The hand trembles. In some drawings, the strokes start and end early or late; in some, they
    have few points.
    """
    tremor = rng.uniform(0, MAX_TREMOR)
    overshoot = rng.normal(0, 0.03) if rng.random() < 0.3 else 0.0
    spacing = rng.uniform(0.08, 0.25) if rng.random() < 0.15 else 0.0
    rough = []
    for stroke in strokes:
        points = stroke + tremor * rng.standard_normal(stroke.shape)
        if len(points) > 3:
            points[0] += overshoot * _direction(points[2], points[0])
            points[-1] += overshoot * _direction(points[-3], points[-1])
        steps = np.hypot(*np.diff(points, axis=0).T)
        distance = np.concatenate(([0], steps.cumsum()))
        kept = distance.searchsorted(np.arange(0, distance[-1], spacing)) if spacing else ...
        rough.append(np.concatenate((points[kept], points[-1:])))
    return rough


def _direction(start: Points, end: Points) -> Points:
    """Return the vector of length 1 that points from start to end."""
    difference: Points = end - start
    return difference / max(float(np.hypot(*difference)), 1e-6)


def draw_strokes(
    strokes: list[Points],
    rng: np.random.Generator,
    canvas_px: int,
    pens: tuple[float, float] = (0.03, 0.09),
    sizes: tuple[float, float] = (0.3, 0.9),
    speed_effect: float = 0,
) -> Image.Image:
    """Draw strokes in white on a black canvas, mode L, at a random position.

    pens, sizes: ranges of the width of the pen and of the longer side of the drawing, relative to
    the canvas. speed_effect: how much thinner the ink is where the pen moves faster.
    """
    points = np.concatenate(strokes)
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    pen = canvas_px * rng.uniform(*pens)
    room = canvas_px - pen - 2
    scale = min(canvas_px * rng.uniform(*sizes), room) / max(span.max(), 1e-6)
    corner = (pen / 2 + 1) + (room - span * scale) * rng.random(2)
    paths = (
        np.column_stack(((stroke - low) * scale + corner, pen * _widths(stroke, speed_effect)))
        for stroke in strokes
    )
    return render(paths, (canvas_px, canvas_px))


def _widths(stroke: Points, speed_effect: float) -> NDArray[np.float64]:
    """Return the width of the ink at each point, relative to that of the pen, [n]."""
    if not speed_effect or len(stroke) < 3:
        return np.ones(len(stroke))
    speed = np.hypot(*np.gradient(stroke, axis=0).T)
    relative = np.maximum(speed / max(speed.mean(), 1e-6), 0.1)
    widths: NDArray[np.float64] = (relative**-speed_effect).clip(0.6, 1.5)
    return widths


def draw_varied(
    strokes: list[Points], amplitude: float, rng: np.random.Generator, canvas_px: int
) -> Image.Image:
    """Draw strokes as other people, pens and programs would.

    amplitude: see warp_strokes.
    """
    strokes = roughen(warp_strokes(strokes, amplitude, rng), rng)
    if rng.random() < LOW_RESOLUTION_SHARE:
        return _draw_low_resolution(strokes, rng, canvas_px)
    speed_effect = rng.uniform(0, 0.5) if rng.random() < 0.3 else 0.0
    return draw_strokes(strokes, rng, canvas_px, pens=VARIED_PENS, speed_effect=speed_effect)


def _draw_low_resolution(
    strokes: list[Points], rng: np.random.Generator, canvas_px: int
) -> Image.Image:
    """Draw on 28 × 28 pixels that are either black or white, and enlarge them."""
    small = draw_strokes(strokes, rng, IMAGE_PX, pens=(0.04, 0.1), sizes=(0.55, 0.9))
    pixels = (np.asarray(small) > rng.uniform(60, 130)).astype(np.uint8) * 255
    return Image.fromarray(pixels).resize((canvas_px, canvas_px), Image.Resampling.NEAREST)


def _white_on_black(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ink


def _black_on_white(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(ink)


def _transparent(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.merge("LA", (Image.new("L", ink.size), ink))


def _photo(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return dark ink on off-white paper, slightly out of focus, with camera noise, as JPEG."""
    paper, pen = rng.uniform(190, 245), rng.uniform(20, 100)
    soft = np.asarray(ink.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2))), np.float32) / 255
    noise = rng.standard_normal(soft.shape, np.float32) * rng.uniform(0.5, 4)
    gray = (paper + (pen - paper) * soft + noise).clip(0, 255)
    body = io.BytesIO()
    Image.fromarray(gray.astype(np.uint8)).save(body, "JPEG", quality=80)
    return decode(body.getvalue())


STYLES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "white-on-black": _white_on_black,
    "black-on-white": _black_on_white,
    "transparent": _transparent,
    "photo": _photo,
}


# ---- from pictures to the model's input ------------------------------------------------------


def render_all(
    renderers: Sequence[Renderer], styles: Sequence[str], canvas_px: int = CANVAS_PX, seed: int = 0
) -> Pixels:
    """Draw with each renderer once in each style, and prepare the pictures as the service does.

    Returns uint8 [renderers, styles, 28, 28], the same for the same seed.
    """
    jobs = ((renderer, styles, canvas_px, (seed, i)) for i, renderer in enumerate(renderers))
    pixels = np.array(list(_processes().map(_render_styles, jobs, chunksize=64)), np.uint8)
    return pixels.reshape(len(renderers), len(styles), 28, 28)


@cache
def _processes() -> ProcessPoolExecutor:
    # Not forked from this process, whose threads may be training a network.
    return ProcessPoolExecutor(
        mp_context=get_context("forkserver"), initializer=_end_with_the_parent
    )


def _end_with_the_parent() -> None:
    """End this process when the one that started the pool is killed; the pool alone would not."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _render_styles(job: tuple[Renderer, Sequence[str], int, tuple[int, int]]) -> list[Pixels]:
    renderer, styles, canvas_px, seed = job
    rng = np.random.default_rng(seed)
    return [_prepare(STYLES[style](renderer(rng, canvas_px), rng)) for style in styles]


def _prepare(image: Image.Image) -> Pixels:
    try:
        return prepare(image)
    except BlankImage:  # a picture in which the digit can hardly be seen
        return np.zeros((IMAGE_PX, IMAGE_PX), np.uint8)
