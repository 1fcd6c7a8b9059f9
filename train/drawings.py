"""Digits that people drew with a pen, drawn again on a canvas as the page would.

Source: Alpaydin and Alimoglu, Pen-Based Recognition of Handwritten Digits, UCI Machine Learning
Repository, data set 81 (CC BY 4.0): 7,494 digits by 30 people, pen positions on a tablet in
UNIPEN text. The same strokes are drawn at many widths, sizes, bends and places, and prepared by
the code that serves.
"""

import hashlib
import io
import math
import subprocess
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from webapp.preprocess import decode, prepare

NAME = "pendigits-orig.tra"
SOURCE = (
    "https://archive.ics.uci.edu/static/public/81/pen+based+recognition+of+handwritten+digits.zip"
)
SHA256 = "a66225d68d7d68591e62944df1ad33b3f5aa608e2df2505844b41f5568a80da4"

CANVAS = 280  # edge of the canvas, pixels
SMALL = 112  # of one with a sixth of the pixels, quicker to teach from
FINER = 2  # ink is drawn this much larger and averaged down, for smooth edges

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]  # [n, 2]: x to the right, y down
# What draws itself on a canvas of some edge, at random in what is not given.
Ink = Callable[[np.random.Generator, int], Image.Image]
Hand = Callable[[list[Points], np.random.Generator, int], Image.Image]  # what draws strokes


@dataclass(frozen=True)
class Drawing:
    """One digit as pen strokes, in the tablet's units, and who drew it."""

    digit: int
    writer: int
    strokes: list[Points]


def read_drawings(path: Path, source: str = SOURCE) -> list[Drawing]:
    """Return all drawings of the UNIPEN file, which is fetched when missing.

    Raises ValueError where the file is not the published one.
    """
    if not path.exists():
        _fetch(source, path)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{path} is not the published {NAME}: delete it to fetch it again.")
    return parse_unipen(content.decode("ascii").splitlines())


def _fetch(source: str, path: Path) -> None:
    with urllib.request.urlopen(source, timeout=60) as response:
        archive = zipfile.ZipFile(io.BytesIO(response.read()))
    # Python reads no compress format; gzip, which every system has, does.
    unpacked = subprocess.run(
        ["gzip", "-d"], input=archive.read(f"{NAME}.Z"), stdout=subprocess.PIPE, check=True
    ).stdout
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(unpacked)


def parse_unipen(lines: Iterable[str]) -> list[Drawing]:
    """Return the drawings of UNIPEN text, their y turned downwards."""
    drawings: list[Drawing] = []
    strokes: list[list[tuple[float, float]]] = []
    for line in lines:
        match line.split():
            case [".COMMENT", digit, writer, _]:
                strokes = []
                drawings.append(Drawing(int(digit), int(writer), []))
            case [".PEN_DOWN"]:
                strokes.append([])
            case [".PEN_UP"]:
                drawings[-1].strokes.append(np.array(strokes[-1]))
            case [x, y] if strokes and x.lstrip("-").isdigit():
                strokes[-1].append((float(x), -float(y)))
    return drawings


# ---- drawing them again ----------------------------------------------------------------------


def distort(strokes: list[Points], bend: float, rng: np.random.Generator) -> list[Points]:
    """Turn, slant, stretch and bend the strokes, as another hand might have drawn them.

    bend: standard deviation of the amplitude of two waves, of the drawing's size.
    """
    points = np.concatenate(strokes)
    points = (points - points.min(axis=0)) / max(np.ptp(points, axis=0).max(), 1e-6)
    for _ in range(2):
        waves, phase = rng.normal(0, 0.7, (2, 2)), rng.random(2)
        points = points + rng.normal(0, bend, 2) * np.sin(2 * np.pi * (points @ waves + phase))
    angle, slant, stretch = rng.normal(0, (0.09, 0.15, 0.1))
    shape = np.array([[math.exp(stretch), slant], [0, math.exp(-stretch)]])
    points = points @ (rotation(angle) @ shape).T
    return np.split(points, np.cumsum([len(stroke) for stroke in strokes])[:-1])


def rotation(angle: float) -> Points:
    """Return the matrix that turns a point (a column) by some radians."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def draw(strokes: list[Points], rng: np.random.Generator, edge: int) -> Image.Image:
    """Return the ink on a canvas of its own, mode L, 255 on 0.

    Pen width, height and place are drawn from `rng`.
    """
    points = np.concatenate(strokes)
    size = edge * FINER
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    pen = size * rng.uniform(0.03, 0.09)
    room = size - pen - 2 * FINER
    scale = min(size * rng.uniform(0.3, 0.9), room) / max(span.max(), 1e-6)
    corner = (pen / 2 + FINER) + (room - span * scale) * rng.random(2)
    canvas = Image.new("L", (size, size))
    pencil = ImageDraw.Draw(canvas)
    for stroke in strokes:
        path = (stroke - low) * scale + corner
        pencil.line([*path.flat], fill=255, width=round(pen))
        for x, y in path:
            pencil.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return canvas.reduce(FINER)


def draw_otherwise(
    bend: float, strokes: list[Points], rng: np.random.Generator, edge: int
) -> Image.Image:
    """Return the ink of the strokes, distorted anew each time."""
    return draw(distort(strokes, bend, rng), rng, edge)


def _white_on_black(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ink


def _black_on_white(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(ink)


def _transparent(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.merge("LA", (Image.new("L", ink.size), ink))


def _photo(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Dark ink on off-white paper, slightly out of focus, with a camera's noise, as JPEG."""
    paper, pen = rng.uniform(190, 245), rng.uniform(20, 100)
    soft = np.asarray(ink.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2))), np.float32) / 255
    noise = rng.standard_normal(soft.shape, np.float32) * rng.uniform(0.5, 4)
    grey = (paper + (pen - paper) * soft + noise).clip(0, 255)
    body = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(body, "JPEG", quality=80)
    return decode(body.getvalue())


LOOKS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "white-on-black": _white_on_black,
    "black-on-white": _black_on_white,
    "transparent": _transparent,
    "photo": _photo,
}


# ---- as the model sees them ------------------------------------------------------------------


def draw_all(
    inks: Sequence[Ink], looks: Sequence[str], edge: int = CANVAS, seed: int = 0
) -> Pixels:
    """Draw each ink once in each of the looks, and prepare it as the service would.

    Returns uint8 [inks, looks, 28, 28], the same for the same seed.
    """
    with ProcessPoolExecutor() as pool:
        jobs = ((ink, looks, edge, (seed, i)) for i, ink in enumerate(inks))
        drawn = np.array(list(pool.map(_draw_one, jobs, chunksize=64)), np.uint8)
    return drawn.reshape(len(inks), len(looks), 28, 28)


def _draw_one(job: tuple[Ink, Sequence[str], int, tuple[int, int]]) -> list[Pixels]:
    ink, looks, edge, seed = job
    rng = np.random.default_rng(seed)
    return [prepare(LOOKS[look](ink(rng, edge), rng)) for look in looks]
