"""Turn a picture of one digit into the 28 × 28 pixels that the model reads.

What MNIST's authors did to scanned digits (LeCun, Bottou, Bengio, Haffner: Gradient-Based
Learning Applied to Document Recognition, 1998, section III.A), done to any drawing: the ink is
scaled by area averaging until its longer side is 20 pixels, and placed so that its centre of
mass falls into the middle pixel of the field. An MNIST image comes out as it went in.

NumPy and Pillow only: training prepares its drawings with this very module.
"""

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from webapp.errors import NoInk, NotAnImage, TooManyPixels

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 4_000_000
START_OF_SCAN = b"\xff\xda"  # of a JPEG
MAX_SCANS = 500  # a progressive one has about 10; any other picture hits on these bytes rarely
Image.MAX_IMAGE_PIXELS = None  # where Pillow would warn, and refuse at twice as many

FIELD = 28  # edge of what the model reads, in cells
ENOUGH = 1_000  # pixels along an edge; of one with twice as many, two are averaged, and so on
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
    # An empty scan takes 14 bytes, and as long to decode as all pixels: 4 MB of them take minutes.
    if body.count(START_OF_SCAN) > MAX_SCANS:
        raise NotAnImage("The picture is a JPEG of too many scans. Save it anew.")
    try:
        file = Image.open(io.BytesIO(body), formats=FORMATS)
        if file.width * file.height > MAX_PIXELS:
            millions = MAX_PIXELS // 1_000_000
            raise TooManyPixels(
                f"The picture has more than {millions} million pixels. Send a smaller one."
            )
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
        return file.convert("RGBA") if file.mode == "P" else file
    except TooManyPixels:
        raise
    except Exception as exc:  # decoders raise whatever they come across in a broken file
        raise NotAnImage("The body is not a whole PNG, JPEG or WebP picture.") from exc


def prepare(picture: Image.Image) -> Grey:
    """Return the digit of a picture as MNIST has it: uint8 [28, 28], ink 255 on ground 0.

    The ink may be dark or light, on paper of any grey, or on a transparent ground.
    Raises NoInk where nothing stands out of the ground.
    """
    grey = _grey(picture)
    if max(grey.size) >= 2 * ENOUGH:
        grey = grey.reduce((max(1, grey.width // ENOUGH), max(1, grey.height // ENOUGH)))
    return _frame(_ink(np.asarray(grey)))


def _grey(picture: Image.Image) -> Image.Image:
    """Return the luminance, mode L, transparency laid on a ground."""
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8
        return Image.fromarray((np.asarray(picture, np.uint32) >> 8).astype(np.uint8))
    if not picture.has_transparency_data or _is_opaque(picture):
        return picture.convert("L")
    grey, alpha = picture.convert("LA").split()
    return Image.composite(grey, Image.new("L", grey.size, _under(grey, alpha)), alpha)


def _is_opaque(picture: Image.Image) -> bool:
    return picture.mode == "RGBA" and np.asarray(picture.getchannel("A")).min() == 255


def _under(grey: Image.Image, alpha: Image.Image) -> int:
    """Return the level to lay under a transparent picture so that its ink stands out."""
    opacity = np.asarray(alpha)
    visible = np.asarray(grey)[opacity > opacity.max() // 2]
    own_ground = 2 * visible.size > grey.width * grey.height  # paper of its own, a corner missing
    if own_ground and np.ptp(visible) >= MIN_CONTRAST:
        return int(np.median(visible))
    return 255 if visible.size and visible.mean() < 128 else 0


def _ink(grey: Grey) -> Ink:
    """Return how far each pixel stands out of the ground, float32 [height, width], bare 0.

    Rows and columns of bare ground at the edges are left out where that costs nothing.
    """
    edge = _edge(grey)
    counts = np.bincount(edge)
    level = np.uint8(counts.argmax())
    if 2 * counts[level] > len(edge):  # most of the edge has one level
        light, dark = _out_of_flat(grey, level)
    else:
        light, dark = _out_of_uneven(grey, edge)
    ink = light if light.sum() > dark.sum() else dark
    if ink.max(initial=0) < MIN_CONTRAST:
        raise NoInk("There is nothing to read: the picture is blank. Draw a digit first.")
    return np.asarray(ink, np.float32)


def _out_of_flat(grey: Grey, level: np.uint8) -> tuple[NDArray[Any], ...]:
    """Return how much lighter and darker the pixels are than a ground of one level."""
    stands_out = grey != level
    rows, columns = (np.flatnonzero(stands_out.any(axis)) for axis in (1, 0))
    if len(rows):
        grey = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.maximum(grey, level) - level, level - np.minimum(grey, level)


def _out_of_uneven(grey: Grey, edge: Grey) -> tuple[NDArray[Any], ...]:
    """Return how much lighter and darker the pixels are than a ground with noise or a slope."""
    ground, noise = _ground(grey, edge)
    contrast = grey - np.float32(ground)
    return np.maximum(contrast - noise, 0), np.maximum(-contrast - noise, 0)


def _ground(grey: Grey, edge: Grey) -> tuple[Ink | float, float]:
    """Return the level of the paper, float32 [height, width] where it varies, and its noise.

    The ground is what the picture's edge shows: a bold digit can outweigh its paper, but it
    does not run along the edge. Where light falls from one side, it is a plane.
    """
    level = float(np.median(edge))
    deviation = float(np.median(np.abs(edge - level)))
    top, bottom, left, right = (float(np.median(side)) for side in _sides(grey))
    down = np.linspace(top - bottom, bottom - top, grey.shape[0], dtype=np.float32) / 2
    across = np.linspace(left - right, right - left, grey.shape[1], dtype=np.float32) / 2
    plane: Ink = np.add.outer(down + (top + bottom + left + right) / 4, across)
    off_plane = float(np.median(np.abs(edge - _edge(plane))))
    # Ink that runs off one side tilts the plane: the ground is what most of the edge lies on.
    if off_plane < deviation:
        return plane, NOISE * off_plane
    return level, NOISE * deviation


def _edge(grey: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(_sides(grey))


def _sides(grey: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return grey[0], grey[-1], grey[:, 0], grey[:, -1]


def _frame(ink: Ink) -> Grey:
    """Return the ink's bounding box, scaled and centred in the field, uint8 [28, 28]."""
    box = ink[_extent(ink)]
    box = box[:, _extent(box.T)]
    scale = max(box.shape) / BOX  # pixels a cell
    down = _shares(box.sum(axis=1), scale)
    across = _shares(box.sum(axis=0), scale)
    field = down @ box @ across.T
    # MNIST's images all reach full white: what a thin pen lost by averaging comes back.
    pixels: Grey = np.rint(field * (255 / field.max())).astype(np.uint8)
    return pixels


def _extent(ink: Ink) -> slice:
    """Return where the digit lies along the first axis.

    The digit ends one pixel beyond the last clear ink, over which an edge fades: further out,
    faint ink is a camera's noise or a trace of compression.
    """
    strongest = ink.max(axis=1)
    clear = np.zeros(len(ink) + 2, bool)
    clear[1:-1] = strongest > CLEAR * strongest.max()
    changes = np.flatnonzero(clear[1:] != clear[:-1])
    if len(changes) > 2:
        changes = _without_specks(changes, ink.sum(axis=1))
    begin, end = int(changes[0]), int(changes[-1])
    begin -= begin > 0 and strongest[begin - 1] > 0
    end += end < len(strongest) and strongest[end] > 0
    return slice(begin, end)


def _without_specks(changes: NDArray[np.intp], total: Ink) -> NDArray[np.intp]:
    """Return where runs of clear ink begin and end, in turn, without those that are dirt.

    total: the ink at each pixel along the axis. A run with little of it is a speck beside the
    digit; the further away it is, the more ink it may have.
    """
    begins, ends = changes[::2], changes[1::2]
    sums = np.concatenate(([0], np.cumsum(total)))
    shares = (sums[ends] - sums[begins]) / sums[-1]
    main = shares.argmax()
    gaps = np.maximum(begins[main] - ends, begins - ends[main]).clip(0) / (ends[-1] - begins[0])
    dirt = SPECK + FAR_SPECK * gaps if shares[main] >= SPECK else 0  # where all are specks, none is
    kept: NDArray[np.intp] = changes.reshape(-1, 2)[shares >= dirt].ravel()
    return kept


def _shares(profile: Ink, scale: float) -> Ink:
    """Return how much of each pixel lies in each cell along one axis, float32 [28, pixels].

    profile: the ink's sum at each pixel; its centre of mass falls into the middle cell, as in
    MNIST, or as near as the field allows. scale: pixels a cell.
    """
    size = len(profile)
    pixels = np.arange(size, dtype=np.float32)
    middle = float(profile @ pixels) / float(profile.sum()) + 0.5
    room = FIELD - math.ceil(size / scale - 1e-6)
    start = min(max(math.ceil(FIELD / 2 - middle / scale), 0), room)
    edges = (np.arange(FIELD + 1) - start) * scale
    before = (edges[:, np.newaxis] - pixels).clip(0, 1).astype(np.float32)  # of each cell's edge
    return np.diff(before, axis=0)
