"""Drawings that are no digit: scribbles, letters, and digits run together.

The network is taught to have no idea of them. How well `uncertain` finds such drawings out is
measured on kinds and fonts that were not taught.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from train.drawings import Drawing, Ink, Points, draw_otherwise, rotation
from train.settings import Settings

# Letters that a digit resembles are missing: to take an l for a 1 is no mistake.
LETTERS = "AEFHKMNPRTUVWXdefhkmnptuvwx"
MORE_LETTERS = LETTERS + "ДЖИЛФЦШЩЮЯΔΘΛΞΠΣΨΩ@#%&?*+="
FONTS = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif")
OTHER_FONTS = ("STIXGeneral", "STIXGeneralItalic", "cmss10", "cmtt10")

Scribble = Callable[[np.random.Generator], list[Points]]


def _walk(rng: np.random.Generator) -> list[Points]:
    heading = np.cumsum(rng.normal(0, rng.uniform(0.3, 0.9), rng.integers(30, 90)))
    return [np.cumsum(np.stack((np.cos(heading), np.sin(heading)), axis=1), axis=0)]


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
    return np.stack((np.cos(angle), np.sin(angle)), axis=1) * rng.uniform(0.2, 1, 2)


def _zigzag(rng: np.random.Generator) -> list[Points]:
    corners = np.stack((np.arange(12), np.tile([0, 4], 6)), axis=1)[: rng.integers(6, 12)]
    return [corners + rng.normal(0, 0.3, corners.shape)]


def _hatching(rng: np.random.Generator) -> list[Points]:
    lines = np.array([[(x, 0), (x, 4)] for x in range(rng.integers(3, 8))])
    return list(lines + rng.normal(0, 0.2, lines.shape))


def _spiral(rng: np.random.Generator) -> list[Points]:
    angle = np.linspace(0, 2 * np.pi * rng.uniform(3, 5), 150)
    return [np.stack((np.cos(angle), np.sin(angle)), axis=1) * angle[:, None]]


def _star(rng: np.random.Generator) -> list[Points]:
    angle = np.arange(6) * 4 * np.pi / 5 + rng.normal(0, 0.1, 6)
    return [np.stack((np.cos(angle), np.sin(angle)), axis=1)]


def _scrawl(rng: np.random.Generator) -> list[Points]:
    return [rng.random((rng.integers(8, 16), 2))]


SCRIBBLES: tuple[Scribble, ...] = (_walk, _lines, _knot, _shapes, _zigzag)
OTHER_SCRIBBLES: tuple[Scribble, ...] = (_hatching, _spiral, _star, _scrawl)


def no_digits(drawings: Sequence[Drawing], settings: Settings, seed: int) -> list[Ink]:
    """Return what is taught: half scribbles, a quarter letters, a quarter digits run together.

    All but the letters are bent as the digits are, so that a bend is no sign.
    """
    rng = np.random.default_rng(seed)
    quarter, bend = settings.doubted // 4, settings.bend
    return [
        *_scribbles(SCRIBBLES, settings.doubted - 2 * quarter, bend, rng),
        *_letters(MORE_LETTERS, FONTS, quarter, rng),
        *(partial(draw_otherwise, bend, _run_together(drawings, rng)) for _ in range(quarter)),
    ]


def other_no_digits(count: int) -> dict[str, list[Ink]]:
    """Return what was not taught, `count` of each, always the same."""
    rng = np.random.default_rng(0)
    return {
        "scribbles": _scribbles(OTHER_SCRIBBLES, count, Settings.bend, rng),
        "letters": _letters(LETTERS, OTHER_FONTS, count, rng),
    }


def _scribbles(
    kinds: Sequence[Scribble], count: int, bend: float, rng: np.random.Generator
) -> list[Ink]:
    turns = map(rotation, rng.uniform(0, 2 * np.pi, count))
    return [
        partial(draw_otherwise, bend, [stroke @ turn for stroke in kinds[i % len(kinds)](rng)])
        for i, turn in enumerate(turns)
    ]


def _letters(letters: str, fonts: Sequence[str], count: int, rng: np.random.Generator) -> list[Ink]:
    return [
        partial(_draw_letter, str(rng.choice([*letters])), str(rng.choice(fonts)))
        for _ in range(count)
    ]


def _draw_letter(letter: str, font: str, rng: np.random.Generator, edge: int) -> Image.Image:
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    ink = Image.new("L", (edge, edge))
    ImageDraw.Draw(ink).text(
        (edge / 2, edge / 2),
        letter,
        fill=255,
        font=ImageFont.truetype(file, round(edge * rng.uniform(0.3, 0.8))),
        anchor="mm",
    )
    return ink


def _run_together(drawings: Sequence[Drawing], rng: np.random.Generator) -> list[Points]:
    """Return two or three drawings, side by side or one upon the other."""
    strokes: list[Points] = []
    apart = rng.choice([rng.uniform(0.2, 0.5), rng.uniform(0.8, 1.3)])
    for place in range(rng.choice([2, 2, 3])):
        drawing = drawings[int(rng.integers(len(drawings)))]
        points = np.concatenate(drawing.strokes)
        low, size = points.min(axis=0), max(np.ptp(points, axis=0).max(), 1)
        strokes += [(stroke - low) / size + (place * apart, 0) for stroke in drawing.strokes]
    return strokes
