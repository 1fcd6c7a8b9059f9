"""Drawings that are not one digit: scribbles, symbols, letters, and digits that run together.

The network is trained to give every digit the same probability on them: outlier exposure, from
Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019. The
share of uncertain outliers is measured on other kinds and fonts, and on the same symbols.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from train import symbols
from train.drawings import Renderer, draw_varied, rotation
from train.settings import Settings
from train.sources import Drawing, Points

# Without letters that resemble a digit: reading an l as a 1 is not an error.
TEST_LETTERS = "AEFHKMNPRTUVWXdefhkmnptuvwx"
TRAIN_LETTERS = TEST_LETTERS + "ДЖИЛФЦШЩЮЯΔΘΛΞΠΣΨΩ@#%&?*+="
TRAIN_FONTS = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif")
TEST_FONTS = ("STIXGeneral", "STIXGeneralItalic", "cmss10", "cmtt10")

Scribble = Callable[[np.random.Generator], list[Points]]


def _on_circle(angle: NDArray[np.float64]) -> Points:
    return np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _walk(rng: np.random.Generator) -> list[Points]:
    heading = np.cumsum(rng.normal(0, rng.uniform(0.3, 0.9), rng.integers(30, 90)))
    return [np.cumsum(_on_circle(heading), axis=0)]


def _lines(rng: np.random.Generator) -> list[Points]:
    return list(rng.random((rng.integers(4, 9), 2, 2)))


def _knot(rng: np.random.Generator) -> list[Points]:
    # Without its first harmonic, a closed curve is neither a 0 nor an 8.
    angle = np.linspace(0, 2 * np.pi, 150)[:, None, None] * np.arange(2, 6)[:, None]
    waves = np.sin(angle + rng.uniform(0, 2 * np.pi, (4, 2))) * rng.normal(0, 1, (4, 2))
    return [waves.sum(axis=1)]


def _shapes(rng: np.random.Generator) -> list[Points]:
    return [_arc(rng) + rng.normal(0, 1, 2) for _ in range(rng.integers(3, 7))]


def _arc(rng: np.random.Generator) -> Points:
    angle = np.linspace(0, rng.uniform(0.5, 7), 30) + rng.uniform(0, 6)
    return _on_circle(angle) * rng.uniform(0.2, 1, 2)


def _zigzag(rng: np.random.Generator) -> list[Points]:
    corners = np.stack((np.arange(12), np.tile([0, 4], 6)), axis=1)[: rng.integers(6, 12)]
    return [corners + rng.normal(0, 0.3, corners.shape)]


def _polygon(rng: np.random.Generator) -> list[Points]:
    count = rng.integers(3, 6)
    angle = 2 * np.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
    corners = _on_circle(angle) * rng.uniform(0.6, 1, (count, 1))
    return [np.concatenate((corners, corners[:1])) * (1, rng.uniform(0.6, 1))]


def _blob(rng: np.random.Generator) -> list[Points]:
    angle, radius = rng.uniform(0, 2 * np.pi, 150), np.sqrt(rng.random((150, 1)))
    return [_on_circle(angle) * radius * (1, rng.uniform(0.5, 1))]


def _hatching(rng: np.random.Generator) -> list[Points]:
    lines = np.array([[(x, 0), (x, 4)] for x in range(rng.integers(3, 8))])
    return list(lines + rng.normal(0, 0.2, lines.shape))


def _spiral(rng: np.random.Generator) -> list[Points]:
    angle = np.linspace(0, 2 * np.pi * rng.uniform(3, 5), 150)
    return [_on_circle(angle) * angle[:, None]]


def _star(rng: np.random.Generator) -> list[Points]:
    angle = np.arange(6) * 4 * np.pi / 5 + rng.normal(0, 0.1, 6)
    return [_on_circle(angle)]


def _scrawl(rng: np.random.Generator) -> list[Points]:
    return [rng.random((rng.integers(8, 16), 2))]


TRAIN_SCRIBBLES: tuple[Scribble, ...] = (_walk, _lines, _knot, _shapes, _zigzag, _polygon, _blob)
TEST_SCRIBBLES: tuple[Scribble, ...] = (_hatching, _spiral, _star, _scrawl)


def make_train_outliers(
    drawings: Sequence[Drawing], settings: Settings, seed: int
) -> list[Renderer]:
    """Return the outliers of an epoch: scribbles, symbols, letters and joined digits, 2:2:1:1.

    All but the letters are warped like the digits, so that a warp is not a sign of an outlier.
    """
    rng = np.random.default_rng(seed)
    count, amplitude = settings.outliers_per_epoch, settings.warp_amplitude
    sixth = count // 6
    return [
        *_make_scribbles(TRAIN_SCRIBBLES, count - 4 * sixth, amplitude, rng),
        *_make_symbols(symbols.TRAIN, 2 * sixth, amplitude, rng),
        *_make_letters(TRAIN_LETTERS, TRAIN_FONTS, sixth, rng),
        *(partial(draw_varied, _join_digits(drawings, rng), amplitude) for _ in range(sixth)),
    ]


def make_test_outliers(count: int) -> dict[str, list[Renderer]]:
    """Return `count` outliers of each kind, always the same.

    Only the templates of the symbols are also used in training. The scribbles and the other symbols
    are of other kinds, the letters of other fonts. Five of the other symbols, such as #, are
    printed letters in training.
    """
    rng, amplitude = np.random.default_rng(0), Settings.warp_amplitude
    return {
        "scribbles": _make_scribbles(TEST_SCRIBBLES, count, amplitude, rng),
        "letters": _make_letters(TEST_LETTERS, TEST_FONTS, count, rng),
        "symbols": _make_symbols(symbols.TRAIN, count, amplitude, rng),
        "other symbols": _make_symbols(symbols.TEST, count, amplitude, rng),
    }


def _make_scribbles(
    kinds: Sequence[Scribble], count: int, amplitude: float, rng: np.random.Generator
) -> list[Renderer]:
    rotations = map(rotation, rng.uniform(0, 2 * np.pi, count))
    return [
        partial(draw_varied, [stroke @ matrix for stroke in kinds[i % len(kinds)](rng)], amplitude)
        for i, matrix in enumerate(rotations)
    ]


def _make_symbols(
    kinds: Mapping[str, str], count: int, amplitude: float, rng: np.random.Generator
) -> list[Renderer]:
    drawn = itertools.islice(itertools.cycle(kinds.values()), count)
    return [partial(draw_varied, symbols.vary(symbol, rng), amplitude) for symbol in drawn]


def _make_letters(
    letters: str, fonts: Sequence[str], count: int, rng: np.random.Generator
) -> list[Renderer]:
    return [
        partial(_draw_letter, str(rng.choice([*letters])), str(rng.choice(fonts)))
        for _ in range(count)
    ]


def _draw_letter(letter: str, font: str, rng: np.random.Generator, canvas_px: int) -> Image.Image:
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    canvas = Image.new("L", (canvas_px, canvas_px))
    ImageDraw.Draw(canvas).text(
        (canvas_px / 2, canvas_px / 2),
        letter,
        fill=255,
        font=ImageFont.truetype(file, round(canvas_px * rng.uniform(0.3, 0.8))),
        anchor="mm",
    )
    return canvas


def _join_digits(drawings: Sequence[Drawing], rng: np.random.Generator) -> list[Points]:
    """Return the strokes of two or three drawings, side by side or on top of each other."""
    strokes: list[Points] = []
    spacing = rng.choice([rng.uniform(0.2, 0.5), rng.uniform(0.8, 1.3)])
    for place in range(rng.choice([2, 2, 3])):
        drawing = drawings[int(rng.integers(len(drawings)))]
        points = np.concatenate(drawing.strokes)
        low, size = points.min(axis=0), max(np.ptp(points, axis=0).max(), 1)
        strokes += [(stroke - low) / size + (place * spacing, 0) for stroke in drawing.strokes]
    return strokes
