"""Pen strokes: from JSON to a picture, for drawings made on the page and for training.

A stroke is a path of points with a width. It is drawn with round caps and joins.
"""

import math
from collections.abc import Iterable, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from webapp.errors import BadRequest, BlankImage

MAX_POINTS = 10_000
SUPERSAMPLING = 2  # ink is drawn this much larger and averaged down, for smooth edges
DRAWING_PX = 84  # longer side of a drawing of the page
MARGIN_PX = 2
FLATNESS_PX = 0.2  # largest distance between a curve and the lines between points on it
MAX_TURN = 0.3  # radians: of these points, one is drawn whenever the curve has turned by this much

NOT_POINTS = "A stroke should be a list of one or more points [x, y, width]."

Stroke = NDArray[np.float64]  # [n, 3]: x to the right, y down, width


def parse_strokes(value: Any) -> list[Stroke]:
    """Return strokes from JSON: lists of [x, y, width] in units of the pad's edge.

    Raises BadRequest, or BlankImage if there are none.
    """
    if value == []:
        raise BlankImage("The drawing is blank. Draw a digit first.")
    if not isinstance(value, list) or not all(isinstance(stroke, list) for stroke in value):
        raise BadRequest("`strokes` should be a list of strokes, which are lists of points.")
    points = [point for stroke in value for point in stroke]
    if len(points) > MAX_POINTS:
        raise BadRequest(f"`strokes` should have at most {MAX_POINTS:,} points.")
    are_points = all(isinstance(point, list) and len(point) == 3 for point in points)
    if not (all(value) and are_points):
        raise BadRequest(NOT_POINTS)
    if not {type(number) for point in points for number in point} <= {int, float}:
        raise BadRequest(NOT_POINTS)
    try:
        array = np.array(points, np.float64)
    except OverflowError:
        array = np.full((1, 3), np.inf)
    if not (array.min() >= 0 and array.max() <= 1 and array[:, 2].min() > 0):
        raise BadRequest(
            "x and y should be between 0 and 1, and each width greater than 0 and at most 1."
        )
    return _split(array, value)


def _split(points: Stroke, strokes: Iterable[Sized]) -> list[Stroke]:
    """Split the points of all strokes into strokes of the given lengths."""
    return np.split(points, np.cumsum([len(stroke) for stroke in strokes])[:-1])


def draw_strokes(strokes: list[Stroke]) -> Image.Image:
    """Draw strokes in units of the pad's edge as the page does, but DRAWING_PX large, mode L."""
    points = np.concatenate(strokes)
    reach = points[:, 2:] / 2
    low = (points[:, :2] - reach).min(axis=0)
    span = (points[:, :2] + reach).max(axis=0) - low
    scale = DRAWING_PX / max(span.max(), 1e-6)
    offset = np.array([*(MARGIN_PX - low * scale), 0])
    width, height = (math.ceil(side) + 2 * MARGIN_PX for side in span * scale)
    scaled = _split(points * scale + offset, strokes)
    paths = (_thin(_smooth(stroke, len(points))) for stroke in scaled)
    return render(paths, (width, height))


def render(strokes: Iterable[Stroke], size: tuple[int, int]) -> Image.Image:
    """Draw strokes in white on a black canvas, mode L, with straight lines between the points."""
    canvas = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    context = ImageDraw.Draw(canvas)
    for stroke in strokes:
        path = stroke * SUPERSAMPLING
        for line, width in _lines(path):
            context.line(line, fill=255, width=max(1, round(width)))
        for x, y, pen in path.tolist():
            context.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return canvas.reduce(SUPERSAMPLING)


def _lines(path: Stroke) -> Iterable[tuple[list[float], float]]:
    """Yield lines of one width: a point's width is that of the line that ends there."""
    if (path[:, 2] == path[0, 2]).all():
        yield path[:, :2].ravel().tolist(), path[0, 2]
        return
    for (x, y, _), (next_x, next_y, width) in zip(path.tolist(), path[1:].tolist(), strict=False):
        yield [x, y, next_x, next_y], width


def _smooth(stroke: Stroke, total: int) -> Stroke:
    """Return points on quadratic curves, which join halfway between the points of the stroke.

    total: the number of points of all strokes; if they are many, there are few per curve.
    """
    if len(stroke) < 2:
        return stroke
    controls = stroke[1:, :2]
    ends = (controls + np.concatenate((controls[1:], controls[-1:]))) / 2
    starts = np.concatenate((stroke[:1, :2], ends[:-1]))
    bends = np.hypot(*(starts - 2 * controls + ends).T) / 4
    counts = np.ceil(np.sqrt(bends / FLATNESS_PX)).clip(1, max(1, MAX_POINTS // total)).astype(int)
    curve = np.repeat(np.arange(len(counts)), counts)
    first = np.repeat(counts.cumsum() - counts, counts)
    t = ((np.arange(len(curve)) - first + 1) / counts[curve])[:, np.newaxis]
    points = (1 - t) ** 2 * starts[curve] + 2 * t * (1 - t) * controls[curve] + t**2 * ends[curve]
    return np.concatenate((stroke[:1], np.column_stack((points, stroke[1:][curve, 2]))))


def _thin(path: Stroke) -> Stroke:
    """Return the ends of a path of one width, and the points between which it turns by MAX_TURN."""
    if len(path) < 3 or (path[:, 2] != path[0, 2]).any():
        return path
    steps = np.diff(path[:, 0] + 1j * path[:, 1])
    path, steps = path[np.append(True, steps != 0)], steps[steps != 0]
    turned = np.abs(np.angle(steps[1:] / steps[:-1])).cumsum() // MAX_TURN
    kept = np.concatenate(([True], np.diff(turned, prepend=0) > 0, [True]))
    return path[kept] if len(steps) > 1 else path
