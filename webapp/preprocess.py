"""Turn a picture of one digit into the 28 × 28 pixels that the model reads.

What MNIST's authors did to scanned digits (LeCun, Bottou, Bengio, Haffner: Gradient-Based
Learning Applied to Document Recognition, 1998, section III.A), done to any drawing: the ink is
scaled by area averaging until its longer side is 20 pixels, and placed so that its centre of
mass falls into the middle pixel of the field. An MNIST image comes out as it went in.

NumPy and Pillow only: training prepares its drawings with this very module.
"""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from webapp.errors import NoInk, NotAnImage, TooManyPixels

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 4_000_000
Image.MAX_IMAGE_PIXELS = None  # where Pillow would warn, and refuse at twice as many

FIELD = 28  # edge of what the model reads, in cells
BOX = 20  # longer side of the digit inside it, in cells
MIN_CONTRAST = 20  # grey levels between ink and ground; paper's own texture stays below
NOISE = 5  # median deviations of the ground that still are ground (more than 3 sigma)
CLEAR = 0.2  # share of the strongest ink that is ink without doubt
SPECK = 0.02  # share of the ink under which a part of its own is dirt
FAR_SPECK = 0.2  # added to it for a part as far away as the drawing is wide, less for a nearer

Grey = NDArray[np.uint8]
Ink = NDArray[np.float32]


def decode(body: bytes) -> Image.Image:
    """Decode a PNG, JPEG or WebP picture, turned upright.

    Raises NotAnImage, or TooManyPixels before anything is decoded.
    """
    try:
        file = Image.open(io.BytesIO(body), formats=FORMATS)
        if file.width * file.height > MAX_PIXELS:
            millions = MAX_PIXELS // 1_000_000
            raise TooManyPixels(
                f"The picture has more than {millions} million pixels. Send a smaller one."
            )
        file.load()
        picture = ImageOps.exif_transpose(file)
        return picture.convert("RGBA") if picture.mode == "P" else picture
    except TooManyPixels:
        raise
    except Exception as exc:  # decoders raise whatever they come across in a broken file
        raise NotAnImage("The body is not a whole PNG, JPEG or WebP picture.") from exc


def prepare(picture: Image.Image) -> Grey:
    """Return the digit of a picture as MNIST has it: uint8 [28, 28], ink 255 on ground 0.

    The ink may be dark or light, on paper of any grey, or on a transparent ground.
    Raises NoInk where nothing stands out of the ground.
    """
    return _frame(_ink(_grey(picture)))


def _grey(picture: Image.Image) -> Grey:
    """Return the luminance, uint8 [height, width], transparency laid on a ground."""
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8
        return (np.asarray(picture, np.uint32) >> 8).astype(np.uint8)
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("L"))
    grey, alpha = picture.convert("LA").split()
    if alpha.getextrema()[0] == 255:
        return np.asarray(grey)
    return np.asarray(Image.composite(grey, Image.new("L", grey.size, _under(grey, alpha)), alpha))


def _under(grey: Image.Image, alpha: Image.Image) -> int:
    """Return the level to lay under a transparent picture so that its ink stands out."""
    opacity = np.asarray(alpha)
    visible = np.asarray(grey)[opacity > opacity.max() // 2]
    own_ground = 2 * visible.size > grey.width * grey.height  # paper of its own, a corner missing
    if own_ground and np.ptp(visible) >= MIN_CONTRAST:
        return int(np.median(visible))
    return 255 if visible.size and visible.mean() < 128 else 0


def _ink(grey: Grey) -> Ink:
    """Return how far each pixel stands out of the ground, float32 [height, width], bare 0."""
    ground, noise = _ground(grey)
    contrast = grey - ground
    light, dark = np.maximum(contrast - noise, 0), np.maximum(-contrast - noise, 0)
    ink: Ink = light if light.sum() > dark.sum() else dark
    if ink.max() < MIN_CONTRAST:
        raise NoInk("There is nothing to read: the picture is blank. Draw a digit first.")
    return ink


def _ground(grey: Grey) -> tuple[Ink | float, float]:
    """Return the level of the paper, float32 [height, width] where it varies, and its noise.

    The ground is what the picture's edge shows: a bold digit can outweigh its paper, but it
    does not run along the edge. Where light falls from one side, it is a plane.
    """
    edge = _edge(grey)
    level = float(np.median(edge))
    deviation = float(np.median(np.abs(edge - level)))
    if deviation:
        top, bottom, left, right = (float(np.median(side)) for side in _sides(grey))
        down = np.linspace(top - bottom, bottom - top, grey.shape[0], dtype=np.float32) / 2
        across = np.linspace(left - right, right - left, grey.shape[1], dtype=np.float32) / 2
        plane: Ink = np.add.outer(down + (top + bottom + left + right) / 4, across)
        off_plane = float(np.median(np.abs(edge - _edge(plane))))
        # Ink that runs off one side tilts the plane: the ground is what most of the edge lies on.
        if off_plane < deviation:
            return plane, NOISE * off_plane
    return level, NOISE * deviation


def _edge(grey: Grey | Ink) -> Ink:
    return np.concatenate(_sides(grey)).astype(np.float32)


def _sides(grey: Grey | Ink) -> tuple[Grey | Ink, ...]:
    return grey[0], grey[-1], grey[:, 0], grey[:, -1]


def _frame(ink: Ink) -> Grey:
    """Return the ink's bounding box, scaled and centred in the field, uint8 [28, 28]."""
    box = ink[_extent(ink.max(axis=1), ink.sum(axis=1))]
    box = box[:, _extent(box.max(axis=0), box.sum(axis=0))]
    scale = max(box.shape) / BOX  # pixels a cell
    down = _cell_edges(box.sum(axis=1), scale)
    across = _cell_edges(box.sum(axis=0), scale)
    # The longer side first: of a line four million pixels long, little is left for the other.
    if box.shape[0] >= box.shape[1]:
        field = _sum_rows(_sum_rows(box, down).T, across).T
    else:
        field = _sum_rows(_sum_rows(box.T, across).T, down)
    # MNIST's images all reach full white: what a thin pen lost by averaging comes back.
    pixels: Grey = np.rint(field * (255 / field.max())).astype(np.uint8)
    return pixels


def _extent(strongest: Ink, total: Ink) -> slice:
    """Return where the digit lies along one axis, from the ink at each pixel.

    A run of pixels with little of the ink is a speck beside the digit; the further away it is,
    the more ink it may have.
    The digit ends one pixel beyond the last clear ink, over which an edge fades: further out,
    faint ink is a camera's noise or a trace of compression.
    """
    clear = strongest > CLEAR * strongest.max()
    changes = np.flatnonzero(np.diff(clear, prepend=False, append=False))
    begins, ends = changes[::2], changes[1::2]
    sums = np.concatenate(([0], np.cumsum(total)))
    shares = (sums[ends] - sums[begins]) / sums[-1]
    main = shares.argmax()
    gaps = np.maximum(begins[main] - ends, begins - ends[main]).clip(0) / (ends[-1] - begins[0])
    dirt = SPECK + FAR_SPECK * gaps if shares[main] >= SPECK else 0  # where all are specks, none is
    runs = np.flatnonzero(shares >= dirt)
    begin, end = int(begins[runs[0]]), int(ends[runs[-1]])
    begin -= begin > 0 and strongest[begin - 1] > 0
    end += end < len(strongest) and strongest[end] > 0
    return slice(begin, end)


def _cell_edges(profile: Ink, scale: float) -> NDArray[np.float64]:
    """Return where the field's cells begin and end along one axis, in pixels of the box, [29].

    profile: the ink's sum at each pixel; its centre of mass falls into the middle cell, as in
    MNIST, or as near as the field allows.
    """
    size = len(profile)
    middle = float(profile @ (np.arange(size) + 0.5)) / float(profile.sum())
    room = FIELD - math.ceil(size / scale - 1e-6)
    start = min(max(math.ceil(FIELD / 2 - middle / scale), 0), room)
    return np.clip((np.arange(FIELD + 1) - start) * scale, 0, size)


def _sum_rows(box: Ink, edges: NDArray[np.float64]) -> Ink:
    """Return the sum of the box's rows between each two edges, an edge may part a row.

    A running total, read between its entries, is exact and costs one pass.
    """
    total = np.zeros((len(box) + 2, box.shape[1]), np.float32)
    np.cumsum(box, axis=0, out=total[1:-1])
    total[-1] = total[-2]
    whole = edges.astype(int)
    part = (edges - whole).astype(np.float32)[:, None]
    return np.diff(total[whole] * (1 - part) + total[whole + 1] * part, axis=0)
