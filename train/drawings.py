"""Pen strokes of digits, drawn on a canvas as the page draws them.

Source: Alpaydin and Alimoglu, Pen-Based Recognition of Handwritten Digits, UCI Machine Learning
Repository, data set 81 (CC BY 4.0): 7,494 digits by 30 people, pen positions on a tablet in
UNIPEN text. The strokes are drawn with random pen widths, sizes, warps and positions, and
prepared by the code that serves.
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
from http.client import HTTPException
from pathlib import Path
from subprocess import CalledProcessError
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from webapp.decode import decode
from webapp.preprocess import prepare
from webapp.strokes import SUPERSAMPLING, render

FILE_NAME = "pendigits-orig.tra"
SOURCE_URL = (
    "https://archive.ics.uci.edu/static/public/81/pen+based+recognition+of+handwritten+digits.zip"
)
SHA256 = "a66225d68d7d68591e62944df1ad33b3f5aa608e2df2505844b41f5568a80da4"

CANVAS_PX = 280  # edge of the page's canvas
TRAIN_CANVAS_PX = 112  # a sixth of the pixels, to draw training data faster

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]  # [n, 2]: x to the right, y down
# Takes a random generator and the canvas edge in pixels; returns white ink on black.
Renderer = Callable[[np.random.Generator, int], Image.Image]


@dataclass(frozen=True)
class Drawing:
    """A digit, its writer, and its pen strokes in the tablet's units."""

    digit: int
    writer: int
    strokes: list[Points]


def read_drawings(path: Path, source: str = SOURCE_URL) -> list[Drawing]:
    """Return all drawings in the UNIPEN file, which is downloaded when missing.

    Raises ValueError if the file is not the published one.
    """
    if not path.exists():
        _download(source, path)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(
            f"{path} is not the published {FILE_NAME}: delete it to download it again."
        )
    return parse_unipen(content.decode("ascii").splitlines())


def _download(source: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(source, timeout=60) as response:
            archive = zipfile.ZipFile(io.BytesIO(response.read()))
        # Python cannot read the compress format; gzip, which every system has, can.
        unpacked = subprocess.run(
            ["gzip", "-d"], input=archive.read(f"{FILE_NAME}.Z"), stdout=subprocess.PIPE, check=True
        ).stdout
    except (BadZipFile, CalledProcessError, HTTPException, KeyError) as error:
        raise ValueError(f"{source} did not answer with the pen strokes: {error}.") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(unpacked)


def parse_unipen(lines: Iterable[str]) -> list[Drawing]:
    """Return the drawings in UNIPEN text, with y pointing down."""
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


def rotation(angle: float) -> Points:
    """Return the matrix that rotates a point (a column) by an angle in radians."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def draw(strokes: list[Points], rng: np.random.Generator, canvas_px: int) -> Image.Image:
    """Draw strokes in white on a black canvas, mode L; pen width, size and position are random."""
    points = np.concatenate(strokes)
    size = canvas_px * SUPERSAMPLING
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    pen = size * rng.uniform(0.03, 0.09)
    room = size - pen - 2 * SUPERSAMPLING
    scale = min(size * rng.uniform(0.3, 0.9), room) / max(span.max(), 1e-6)
    corner = (pen / 2 + SUPERSAMPLING) + (room - span * scale) * rng.random(2)
    paths = (np.insert((stroke - low) * scale + corner, 2, pen, axis=1) for stroke in strokes)
    return render((path / SUPERSAMPLING for path in paths), (canvas_px, canvas_px))


def draw_warped(
    strokes: list[Points], amplitude: float, rng: np.random.Generator, canvas_px: int
) -> Image.Image:
    """Draw strokes after warping them at random."""
    return draw(warp_strokes(strokes, amplitude, rng), rng, canvas_px)


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
    """Draw everything once in each style, and prepare it as the service does.

    Returns uint8 [renderers, styles, 28, 28], the same for the same seed.
    """
    with ProcessPoolExecutor() as pool:
        jobs = ((renderer, styles, canvas_px, (seed, i)) for i, renderer in enumerate(renderers))
        pixels = np.array(list(pool.map(_render, jobs, chunksize=64)), np.uint8)
    return pixels.reshape(len(renderers), len(styles), 28, 28)


def _render(job: tuple[Renderer, Sequence[str], int, tuple[int, int]]) -> list[Pixels]:
    renderer, styles, canvas_px, seed = job
    rng = np.random.default_rng(seed)
    return [prepare(STYLES[style](renderer(rng, canvas_px), rng)) for style in styles]
