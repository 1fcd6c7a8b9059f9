"""Synthetic photographs of digits on paper, and screenshots.

A picture is composed at random: paper, the strokes of a drawing, things on the paper, light, and a
camera. Some kinds of each are used only for testing.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from train.drawings import Renderer, rotation
from train.sources import Drawing, Points
from webapp.prediction import OUTLIER
from webapp.strokes import render

READABLE, SEVERAL, UNREADABLE = "readable", "several", "unreadable"
VIEW = 0.74  # share of the page's edge that the camera sees
SPOILED_SHARE = 0.2  # of the training pictures: their digit is crossed out or scribbled over
MIN_INK_CONTRAST = 24  # gray levels; fainter ink is hard to see

T = TypeVar("T")
Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom


class Picture(NamedTuple):
    """A picture, and what it shows: one digit (READABLE), SEVERAL digits, or none (UNREADABLE)."""

    image: Image.Image
    outcome: str


@dataclass
class Page:
    """A sheet with a digit, before it is photographed. Coordinates and lengths are in pixels."""

    image: Image.Image  # RGB
    view: Box  # what the camera sees
    paper: Rgb  # the color of the sheet
    box: Box  # the digit, or the place for it
    height: float  # of the digit
    pen: float  # width of the digit's strokes
    ink: Rgb
    strokes: list[Points]  # in units of `height`, from the upper left corner of the box
    others: Sequence[list[Points]]  # strokes of other digits, in the same unit
    is_screen: bool = False  # screenshots have no perspective

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        """Return a context that draws on the page."""
        return ImageDraw.Draw(self.image)


Step = Callable[[Page, np.random.Generator], str | None]


def rgb(values: Any) -> Rgb:
    """Return a color with levels rounded down to integers from 0 to 255."""
    red, green, blue = (int(min(max(value, 0), 255)) for value in values)
    return red, green, blue


def mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    """Return a color between two others: `one` for a share of 0, `other` for 1."""
    return rgb(np.array(one) * (1 - share) + np.array(other) * share)


def rounded(box: Box) -> tuple[int, int, int, int]:
    """Return a box in whole pixels."""
    left, top, right, bottom = (round(side) for side in box)
    return left, top, right, bottom


def choose(things: Sequence[T], rng: np.random.Generator) -> T:
    """Return one of several things."""
    return things[int(rng.integers(len(things)))]


def chance(rng: np.random.Generator, share: float) -> bool:
    """Return True with the probability `share`."""
    return bool(rng.random() < share)


# ---- paper -----------------------------------------------------------------------------------


def white_paper(rng: np.random.Generator) -> Rgb:
    """Return the color of white paper in some light."""
    return rgb(rng.uniform(175, 252) + rng.normal(0, 4, 3))


def tinted_paper(rng: np.random.Generator) -> Rgb:
    """Return the color of recycled paper, a sticky note or an envelope."""
    colors = ((205, 200, 185), (250, 235, 110), (255, 170, 190), (160, 215, 240), (205, 165, 115))
    return rgb(np.array(choose(colors, rng)) * rng.uniform(0.75, 1))


def board(rng: np.random.Generator) -> Rgb:
    """Return the color of a blackboard or of a dark page."""
    colors = ((30, 32, 34), (35, 70, 55), (18, 18, 30), (70, 72, 78))
    return rgb(np.array(choose(colors, rng)) * rng.uniform(0.8, 1.3))


def any_color(rng: np.random.Generator) -> Rgb:
    """Return any color."""
    return rgb(rng.uniform(20, 235, 3))


def line_color(paper: Rgb, rng: np.random.Generator) -> Rgb:
    """Return the color of printed lines on paper: blue, gray or red, and rather faint."""
    colors: tuple[Rgb, ...] = ((90, 130, 200), (120, 120, 120), (200, 90, 100), (110, 190, 190))
    dark = sum(paper) < 300
    color = (220, 220, 220) if dark else choose(colors, rng)
    return mix(paper, color, rng.uniform(0.25, 0.9))


def ruled(page: Page, rng: np.random.Generator) -> None:
    """Print lines, and sometimes a margin."""
    width, height = page.image.size
    gap = page.view[3] * rng.uniform(0.05, 0.2)
    color = line_color(page.paper, rng)
    for y in np.arange(rng.uniform(0, gap), height, gap):
        page.draw.line((0, y, width, y), color, int(rng.integers(1, 3)))
    if chance(rng, 0.5):
        x = page.view[0] + rng.uniform(0.05, 0.3) * (page.view[2] - page.view[0])
        page.draw.line((x, 0, x, height), line_color(page.paper, rng), 2)


def squared(page: Page, rng: np.random.Generator) -> None:
    """Print a grid; the digit is in one cell, or covers several."""
    width, height = page.image.size
    left, top, right, bottom = page.box
    gap = (bottom - top) * (rng.uniform(1.15, 1.6) if chance(rng, 0.4) else rng.uniform(0.15, 0.5))
    color, thick = line_color(page.paper, rng), int(rng.integers(1, 3))
    x0, y0 = (left + right - gap) / 2 % gap, (top + bottom - gap) / 2 % gap
    for x in np.arange(x0, width, gap):
        page.draw.line((x, 0, x, height), color, thick)
    for y in np.arange(y0, height, gap):
        page.draw.line((0, y, width, y), color, thick)


def dotted(page: Page, rng: np.random.Generator) -> None:
    """Print a grid of dots."""
    gap, color = page.view[3] * rng.uniform(0.04, 0.12), line_color(page.paper, rng)
    for x in np.arange(rng.uniform(0, gap), page.image.width, gap):
        for y in np.arange(rng.uniform(0, gap), page.image.height, gap):
            page.draw.ellipse((x - 1, y - 1, x + 1, y + 1), color)


def plain(page: Page, rng: np.random.Generator) -> None:
    """Leave the sheet as it is."""


def isometric(page: Page, rng: np.random.Generator) -> None:
    """Print a triangular grid."""
    width, height = page.image.size
    gap, color = page.view[3] * rng.uniform(0.08, 0.2), line_color(page.paper, rng)
    for start in np.arange(-height, width + height, gap):
        page.draw.line((start, 0, start + height * 0.577, height), color)
        page.draw.line((start, 0, start - height * 0.577, height), color)


# ---- things on the paper ---------------------------------------------------------------------


def box_around(page: Page, margin: float) -> Box:
    """Return the digit's box with a margin in units of its height."""
    left, top, right, bottom = page.box
    edge = margin * (bottom - top)
    return left - edge, top - edge, right + edge, bottom + edge


def nothing(page: Page, rng: np.random.Generator) -> None:
    """Put nothing on the paper."""


def frame(page: Page, rng: np.random.Generator) -> None:
    """Draw a box around the digit."""
    page.draw.rectangle(box_around(page, rng.uniform(0.2, 0.5)), None, pen_like(page, rng), 2)


def circle(page: Page, rng: np.random.Generator) -> None:
    """Draw a circle around the digit by hand."""
    left, top, right, bottom = page.box
    angle = np.linspace(0, 2 * np.pi * rng.uniform(0.97, 1.05), 50) + rng.uniform(0, 6)
    radius = np.hypot(right - left, bottom - top) / 2 * rng.uniform(1.2, 1.5)
    wave = 1 + 0.04 * np.sin(2 * angle + rng.uniform(0, 6))
    points = np.stack((np.cos(angle) * rng.uniform(0.9, 1.1), np.sin(angle)), 1) * wave[:, None]
    center = ((left + right) / 2, (top + bottom) / 2)
    path = [tuple(point) for point in points * radius + center]
    page.draw.line(path, pen_like(page, rng), max(2, round(page.pen * 0.8)), "curve")


def underline(page: Page, rng: np.random.Generator) -> None:
    """Underline the digit once or twice."""
    left, _, right, bottom = box_around(page, rng.uniform(0.15, 0.3))
    for i in range(int(rng.integers(1, 3))):
        y = bottom + i * page.pen * 3
        ends = (left, y + rng.normal(0, 3), right, y + rng.normal(0, 3))
        page.draw.line(ends, pen_like(page, rng), max(2, round(page.pen * rng.uniform(0.5, 1))))


def small_print(page: Page, rng: np.random.Generator) -> None:
    """Print lines of words far smaller than the digit, above or below it."""
    left, top, right, bottom = page.view
    size = (page.box[3] - page.box[1]) * rng.uniform(0.06, 0.16)
    under = chance(rng, 0.5)
    y = page.box[3] + 2.5 * size if under else page.box[1] - 3.5 * size
    for _ in range(int(rng.integers(1, 4))):
        x = left + rng.uniform(0, 0.3) * (right - left)
        while x < right - (right - left) * 0.1 and top + size < y < bottom - size:
            width = size * rng.uniform(0.3, 0.8)
            page.draw.arc((x, y, x + width, y + size), rng.uniform(0, 180), 360, page.ink, 1)
            x += width * rng.choice([1.5, 1.5, 1.5, 3])
        y += 2 * size if under else -2 * size


def hole(page: Page, rng: np.random.Generator) -> None:
    """Punch two holes at the left edge of the sheet."""
    radius = (page.view[3] - page.view[1]) * rng.uniform(0.015, 0.035)
    x = page.view[0] + 2 * radius
    for share in (0.2, 0.8):
        y = page.view[1] + share * (page.view[3] - page.view[1])
        shape = (x - radius, y - radius, x + radius, y + radius)
        page.draw.ellipse(shape, mix(page.paper, (40, 35, 30), 0.8))


def finger(page: Page, rng: np.random.Generator) -> None:
    """Hold the sheet with a finger at an edge."""
    left, top, right, bottom = page.view
    radius = (right - left) * rng.uniform(0.05, 0.1)
    x = left + radius * 0.3 if chance(rng, 0.5) else right - radius * 0.3
    y = bottom if chance(rng, 0.5) else top
    skin = rgb(np.array((215, 165, 140)) * rng.uniform(0.5, 1.05))
    page.draw.ellipse((x - radius, y - 2 * radius, x + radius, y + 2 * radius), skin)


def window(page: Page, rng: np.random.Generator) -> None:
    """Surround the sheet with the window of a paint program."""
    page.is_screen = True
    left, top, right, bottom = page.view
    outer, paper = any_gray(rng), page.paper
    edge = (right - left) * rng.uniform(0.02, 0.1)
    inner = box_around(page, 0.1)
    sheet = (
        min(left + edge, inner[0]),
        min(top + 3 * edge, inner[1]),
        max(right - edge, inner[2]),
        max(bottom - edge, inner[3]),
    )
    full = (0, 0, page.image.width, page.image.height)
    crop = page.image.crop(rounded(sheet))
    page.draw.rectangle(full, outer)
    page.image.paste(crop, (round(sheet[0]), round(sheet[1])))
    page.draw.rectangle((0, 0, page.image.width, top + edge), mix(outer, paper, 0.5))
    for i in range(int(rng.integers(0, 6))):
        x = left + edge * (1 + 1.5 * i)
        page.draw.rectangle((x, top + edge * 0.2, x + edge * 0.8, top + edge * 0.7), any_color(rng))


def any_gray(rng: np.random.Generator) -> Rgb:
    """Return a gray level, often near white."""
    return rgb([rng.choice([rng.uniform(200, 245), rng.uniform(30, 200)])] * 3)


def sheet_on_desk(page: Page, rng: np.random.Generator) -> None:
    """Show the sheet's edges, and the desk behind it."""
    left, top, right, bottom = page.view
    inner, paper = box_around(page, 0.2), page.paper
    desk = mix(any_color(rng), (130, 95, 65), 0.5)
    shares = rng.uniform(-0.1, 0.9, 4).clip(0)
    width, height = page.image.size
    if shares[0]:
        page.draw.rectangle((0, 0, left + (inner[0] - left) * shares[0], height), desk)
    if shares[1]:
        page.draw.rectangle((0, 0, width, top + (inner[1] - top) * shares[1]), desk)
    if shares[2]:
        page.draw.rectangle((right - (right - inner[2]) * shares[2], 0, width, height), desk)
    if shares[3]:
        page.draw.rectangle((0, bottom - (bottom - inner[3]) * shares[3], width, height), desk)
    if sum(paper) < 300 and sum(desk) < 300:
        page.draw.rectangle((0, 0, left, height), desk)


def highlighter(page: Page, rng: np.random.Generator) -> None:
    """Mark the digit with a broad translucent pen."""
    color = ((255, 250, 90), (150, 255, 150), (255, 180, 220))[rng.integers(3)]
    left, top, right, bottom = box_around(page, rng.uniform(0.05, 0.3))
    if chance(rng, 0.4):
        top = (top + bottom) / 2
    shape = rounded((left, top, right, bottom))
    area = page.image.crop(shape)
    marked = np.asarray(area).astype(int) * np.array(color) // 255
    page.image.paste(Image.fromarray(marked.astype(np.uint8)), (shape[0], shape[1]))


def stamp(page: Page, rng: np.random.Generator) -> None:
    """Print a rectangular stamp in a corner of the picture, partly outside."""
    left, top, right, bottom = page.view
    size = (bottom - top) * 0.14
    x = rng.choice([left - size * 0.5, right - size])
    y = rng.choice([top - size * 0.3, bottom - size * 0.7])
    page.draw.rectangle((x, y, x + 1.5 * size, y + size), None, any_color(rng), 2)
    page.draw.line((x + 4, y + size / 2, x + 1.5 * size - 4, y + size / 2), page.ink, 2)


def crop_marks(page: Page, rng: np.random.Generator) -> None:
    """Print the corners of a frame around the digit."""
    left, top, right, bottom = box_around(page, rng.uniform(0.25, 0.5))
    size, color = (bottom - top) * 0.1, pen_like(page, rng)
    for x, dx in ((left, size), (right, -size)):
        for y, dy in ((top, size), (bottom, -size)):
            page.draw.line(((x + dx, y), (x, y), (x, y + dy)), color, 2)


def pen_like(page: Page, rng: np.random.Generator) -> Rgb:
    """Return the color of the pen, or of another one."""
    return page.ink if chance(rng, 0.6) else line_color(page.paper, rng)


# ---- several digits, or none -----------------------------------------------------------------


def write(page: Page, strokes: list[Points], corner: Points, height: float, pen: float) -> None:
    """Write strokes of height 1 on the page; the upper left corner of their box is `corner`."""
    size = np.concatenate(strokes).max(axis=0) * height + 2 * pen + 4
    paths = (np.insert(stroke * height + pen + 2, 2, pen, axis=1) for stroke in strokes)
    mask = render(paths, (math.ceil(size[0]), math.ceil(size[1])))
    page.image.paste(page.ink, tuple(np.rint(corner - pen - 2).astype(int).tolist()), mask)


def neighbors(page: Page, rng: np.random.Generator) -> str:
    """Write one or two more digits to the right or below."""
    left, top, right, bottom = page.box
    height = bottom - top
    for strokes in page.others[: int(rng.integers(1, 3))]:
        scale = height * rng.uniform(0.8, 1.2)
        width = np.concatenate(strokes).max(axis=0)[0] * scale
        gap = page.pen + height * rng.uniform(0.15, 0.4)
        if right + gap + width < page.view[2] and (
            chance(rng, 0.65) or bottom + scale > page.view[3]
        ):
            corner = (right + gap, top + rng.normal(0, 0.08) * height)
            right += gap + width
        else:
            corner = (left + rng.normal(0, 0.1) * height, bottom + gap)
            bottom += gap + scale
        write(page, strokes, np.array(corner), scale, page.pen)
    page.box = (left, top, right, bottom)  # so that a frame or a circle encloses all digits
    return SEVERAL


def wide_box(page: Page) -> Box:
    """Return the digit's box with a margin, at least 0.8 times as wide as high."""
    left, top, right, bottom = box_around(page, 0.1)
    more = max(0, 0.8 * (bottom - top) - (right - left)) / 2
    return left - more, top, right + more, bottom


def crossed_out(page: Page, rng: np.random.Generator) -> str:
    """Cross the digit out, with a zigzag or with several lines."""
    left, top, right, bottom = wide_box(page)
    count = int(rng.integers(6, 11))
    if chance(rng, 0.5):
        shares = np.linspace(0, 1, count)
        ends = np.where(np.arange(count) % 2, top, bottom) + rng.normal(0, 4, count)
        path = list(zip(left + shares * (right - left), ends, strict=True))
        page.draw.line(path, page.ink, max(2, round(page.pen)), "curve")
    else:
        for y in np.linspace(top, bottom, count // 2 + 3)[1:-1]:
            stroke = (left, y + rng.normal(0, 6), right, y + rng.normal(0, 6))
            page.draw.line(stroke, page.ink, max(2, round(page.pen)))
    return UNREADABLE


def hatched(page: Page, rng: np.random.Generator) -> str:
    """Hatch the digit's box."""
    left, top, right, bottom = wide_box(page)
    slant = rng.uniform(-0.3, 0.3) * (bottom - top)
    for x in np.linspace(left, right, int(rng.integers(5, 9))):
        page.draw.line((x, top, x + slant, bottom), page.ink, max(2, round(page.pen * 0.8)))
    return UNREADABLE


def scribbled(page: Page, rng: np.random.Generator) -> str:
    """Cover the digit with a scribble."""
    angle = np.linspace(0, 2 * np.pi * rng.uniform(3, 6), 90)
    left, top, right, bottom = wide_box(page)
    x = left + (right - left) * (0.5 + 0.5 * np.sin(angle * 0.31 + rng.uniform(0, 6)))
    y = top + (bottom - top) * (0.5 + 0.5 * np.sin(angle + rng.uniform(0, 6)))
    page.draw.line([*zip(x, y, strict=True)], page.ink, max(2, round(page.pen)), "curve")
    return UNREADABLE


# ---- light and camera ------------------------------------------------------------------------

Light = Callable[[NDArray[np.float32], NDArray[np.float32], np.random.Generator], Any]


def _even(x: Any, y: Any, rng: np.random.Generator) -> Any:
    return np.ones_like(x)


def _slope(x: Any, y: Any, rng: np.random.Generator) -> Any:
    return 1 + (x - 0.5) * rng.uniform(-0.5, 0.5) + (y - 0.5) * rng.uniform(-0.5, 0.5)


def _vignette(x: Any, y: Any, rng: np.random.Generator) -> Any:
    return 1 - rng.uniform(0.2, 0.8) * ((x - 0.5) ** 2 + (y - 0.5) ** 2)


def _shadow(x: Any, y: Any, rng: np.random.Generator) -> Any:
    angle, softness = rng.uniform(0, 2 * np.pi), rng.choice([0.004, 0.03, 0.12])
    distance = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) - rng.uniform(0.1, 0.45)
    return 1 - rng.uniform(0.15, 0.5) / (1 + np.exp(-(distance / softness).clip(-30, 30)))


def _flash(x: Any, y: Any, rng: np.random.Generator) -> Any:
    (a, b), size = rng.random(2), rng.uniform(0.15, 0.5)
    blob = np.exp(-((x - a) ** 2 + (y - b) ** 2) / size**2)
    return (1 - rng.uniform(0.1, 0.4)) + rng.uniform(0.1, 0.4) * blob


def _blinds(x: Any, y: Any, rng: np.random.Generator) -> Any:
    waves = np.sin((x * rng.uniform(-1, 1) + y) * rng.uniform(10, 22) + rng.uniform(0, 6))
    return 1 - rng.uniform(0.05, 0.15) * (waves + 1)


def shine(rgb_levels: Any, lights: Sequence[Light], rng: np.random.Generator) -> Any:
    """Return the picture [h, w, 3] in some light, with a cast of color."""
    height, width = rgb_levels.shape[:2]
    x, y = np.meshgrid(
        np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32)
    )
    field = choose(lights, rng)(x, y, rng)
    cast = (1 + rng.normal(0, 0.04, 3)).astype(np.float32)
    return rgb_levels * (field.astype(np.float32)[:, :, None] * cast)


def photograph(page: Page, rng: np.random.Generator) -> Image.Image:
    """Return the view of the page through a camera: perspective up to 25°, rotation up to 15°."""
    left, top, right, bottom = page.view
    size = (round(right - left), round(bottom - top))
    if page.is_screen:
        return page.image.crop(
            (round(left), round(top), round(left) + size[0], round(top) + size[1])
        )
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (np.array(size) / 2)
    turned = corners @ rotation(np.radians(np.clip(rng.normal(0, 6), -15, 15))).T
    tilt = np.sin(np.radians(rng.uniform(0, 25))) * chance(rng, 0.5)
    direction = rng.uniform(0, 2 * np.pi)
    depth = turned @ (math.cos(direction), math.sin(direction)) * tilt / max(size) / 1.2
    source = turned * (1 + depth)[:, None] + ((left + right) / 2, (top + bottom) / 2)
    target = corners + np.array(size) / 2
    rows, values = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        values += [u, v]
    coefficients = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    perspective, bilinear = Image.Transform.PERSPECTIVE, Image.Resampling.BILINEAR
    return page.image.transform(size, perspective, coefficients, bilinear, fillcolor=page.paper)


def develop(image: Image.Image, lights: Sequence[Light], rng: np.random.Generator) -> Image.Image:
    """Return the picture with light, blur, noise, sharpening and compression."""
    levels = shine(np.asarray(image, np.float32), lights, rng)
    height, width = levels.shape[:2]
    noise = rng.standard_normal((height, width, 1), np.float32) * rng.uniform(0.3, 3)
    grain = rng.normal(0, rng.uniform(0, 3), (height // 4 + 1, width // 4 + 1)).astype(np.float32)
    grain = np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BILINEAR))
    levels = levels + grain[:, :, None]
    image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.6)))
    image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    if chance(rng, 0.3):
        image = ImageEnhance.Sharpness(image).enhance(rng.uniform(1, 3))
    body = io.BytesIO()
    image.save(body, "JPEG", quality=int(rng.integers(50, 96)))
    return Image.open(body).convert("RGB")


# ---- everything together ---------------------------------------------------------------------


@dataclass(frozen=True)
class Kinds:
    """What pictures are composed of; a kind that is named twice is chosen twice as often."""

    papers: Sequence[Step]
    clutter: Sequence[Step]  # leaves the digit readable
    spoilers: Sequence[Step]  # leave several digits, or none that can be read
    lights: Sequence[Light]


TRAIN_KINDS = Kinds(
    (plain, plain, plain, ruled, squared, dotted),
    (frame, circle, underline, small_print, hole, window, sheet_on_desk, highlighter),
    (crossed_out, scribbled),
    (_even, _slope, _vignette, _shadow, _flash),
)
TEST_KINDS = Kinds(
    (plain, isometric), (finger, stamp, crop_marks), (neighbors, hatched), (_even, _blinds)
)


def make_picture(
    strokes: list[Points],
    others: Sequence[list[Points]],
    kinds: Kinds,
    spoiled: float,
    rng: np.random.Generator,
) -> Picture:
    """Return a random picture of a digit.

    others: strokes of two more digits. spoiled: the probability that there are several digits, or
    none that can be read.
    """
    spoiler = choose(kinds.spoilers, rng) if chance(rng, spoiled) else nothing
    page = _blank_page(strokes, others, spoiler is neighbors, rng)
    choose(kinds.papers, rng)(page, rng)
    page.ink = _choose_ink(page.paper, rng)
    clutter = [kinds.clutter[i] for i in rng.permutation(len(kinds.clutter))]
    amount = int(rng.choice([0, 0, 1, 1, 2]))
    sheets = [step for step in clutter[:amount] if step in (window, sheet_on_desk)]
    for step in sheets[:1]:
        step(page, rng)
    _write_digit(page, rng)
    outcome = spoiler(page, rng) or READABLE
    for step in clutter[:amount]:
        if step not in (window, sheet_on_desk):
            step(page, rng)
    image = photograph(page, rng)
    if not page.is_screen or chance(rng, 0.3):
        image = develop(image, kinds.lights, rng)
    return Picture(image, outcome)


def unit(strokes: list[Points]) -> list[Points]:
    """Return strokes that begin at 0 and fit in a box 1.2 wide and 1 high."""
    points = np.concatenate(strokes)
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scale = max(span[1], span[0] / 1.2, 1e-6)
    return [(stroke - low) / scale for stroke in strokes]


def _blank_page(
    strokes: list[Points], others: Sequence[list[Points]], crowded: bool, rng: np.random.Generator
) -> Page:
    edge, aspect = rng.uniform(320, 480), rng.choice([1, 1, 0.75, 4 / 3, 0.5625])
    size = np.array((edge * min(aspect, 1), edge * min(1 / aspect, 1)))
    page_size = np.rint(size / VIEW).astype(int)
    corner = (page_size - size) / 2
    strokes = unit(strokes)
    shape = np.concatenate(strokes).max(axis=0)
    height = size.min() * rng.uniform(0.22, 0.35 if crowded else 0.75) / max(shape.max(), 1)
    middle = 0.2 if crowded else 0.5
    place = corner + (size - shape * height) * rng.normal(middle, 0.13, 2).clip(0.12, 0.88)
    kind = choose([white_paper, white_paper, tinted_paper, board, any_color], rng)
    paper = kind(rng)
    image = Image.new("RGB", tuple(page_size.tolist()), paper)
    box = (*place.tolist(), *(place + shape * height).tolist())
    view = (*corner.tolist(), *(corner + size).tolist())
    pen = max(2.0, height * rng.choice([rng.uniform(0.025, 0.06), rng.uniform(0.05, 0.13)]))
    return Page(
        image, view, paper, box, height, pen, (0, 0, 0), strokes, [unit(other) for other in others]
    )


def _choose_ink(paper: Rgb, rng: np.random.Generator) -> Rgb:
    """Return a color that can be seen on the paper."""
    usual = ((40, 40, 45), (30, 50, 150), (190, 40, 50), (30, 110, 60), (110, 110, 112))
    chalks = ((240, 240, 235), (245, 230, 140), (250, 180, 190))
    while True:
        ink = any_color(rng)
        if chance(rng, 0.8):
            pens = usual if sum(paper) > 330 else chalks
            ink = mix(paper, choose(pens, rng), rng.choice([1, rng.uniform(0.3, 1)]))
        difference = np.abs(np.subtract(ink, paper))
        if difference.max() >= 2 * MIN_INK_CONTRAST and difference.sum() >= 3 * MIN_INK_CONTRAST:
            return ink


def _write_digit(page: Page, rng: np.random.Generator) -> None:
    left, top = page.box[:2]
    texture = rng.choice(["full", "full", "grainy", "gaps"])
    before = page.image.copy() if texture != "full" else None
    write(page, page.strokes, np.array((left, top)), page.height, page.pen)
    if before is not None:
        width, height_px = page.image.size
        step = 2 if texture == "grainy" else 5
        cells = rng.random((height_px // step + 1, width // step + 1))
        low, share = (0.35, 0.35) if texture == "grainy" else (0.7, 0.12)
        faded = np.where(cells < share, (1 - low) * 255 * rng.random(cells.shape), 0)
        mask = Image.fromarray(faded.astype(np.uint8)).resize(page.image.size)
        page.image.paste(before, (0, 0), mask)


def make_pictures(
    drawings: Sequence[Drawing], kinds: Kinds, spoiled_share: float, count: int, seed: int
) -> tuple[list[Renderer], list[int]]:
    """Return renderers of pictures, and their labels: the digit, or OUTLIER if it is spoiled.

    spoiled_share: the share of pictures with several digits, or none that can be read.
    """
    rng = np.random.default_rng(seed)
    renderers: list[Renderer] = []
    labels = []
    for chosen in rng.integers(len(drawings), size=(count, 3)).tolist():
        drawing, *others = (drawings[i] for i in chosen)
        is_spoiled = chance(rng, spoiled_share)
        strokes = [other.strokes for other in others]
        arguments = drawing.strokes, strokes, kinds, float(is_spoiled)
        renderers.append(partial(_render_picture, *arguments))
        labels.append(OUTLIER if is_spoiled else drawing.digit)
    return renderers, labels


def _render_picture(
    strokes: list[Points],
    others: Sequence[list[Points]],
    kinds: Kinds,
    spoiled: float,
    rng: np.random.Generator,
    canvas_px: int,
) -> Image.Image:
    return make_picture(strokes, others, kinds, spoiled, rng).image
