"""Convert an image of one digit into the 28 × 28 pixels that the model reads.

This follows MNIST's authors (LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to
Document Recognition, 1998, section III.A): the ink is scaled by area averaging until its longer
side is 20 pixels, and placed so that its center of mass is in the middle of the output. An MNIST
image comes out as it went in.

This module imports no server, because training prepares its drawings with it too.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from webapp.decode import MIN_CONTRAST, reduce_large
from webapp.errors import BlankImage
from webapp.segment import Ink, Mask, components, find_digit, runs

CROP_PX = 64  # an image whose sides are smaller is taken for a crop of one digit
MASK_PX = 64  # longer side of the mask in which gaps are found
LINED_PX = 64  # an image with a smaller side has no lines, as on squared paper
IMAGE_PX = 28  # edge of the output
DIGIT_PX = 20  # longer side of the digit in the output
INK_THRESHOLD = 0.2  # of the strongest ink: fainter pixels do not decide where the digit ends
SPECK_SHARE = 0.02  # a separate part with a smaller share of the ink is a speck
FAR_SPECK_SHARE = 0.2  # added for a part that is as far away as the drawing is wide
FRAME_SHARE = 0.02  # smallest distance between digit and frame, of the ink's longer side
MAX_MARGIN_DIFFERENCE = 0.4  # of two margins of a gap, relative to its longer side
MAX_CONCAVITY = 0.02  # share of the area that is missing between two points of a row or a column
MAX_LINE_WIDTH = 0.015  # width of a line, relative to the longer side of the image

BLANK = "The image is blank: no digit can be seen in it."

Gray = NDArray[np.uint8]


class Prepared(NamedTuple):
    """A digit in MNIST's format, uint8 [28, 28], and why it may not be one digit, if so."""

    pixels: Gray
    doubt: str | None


def prepare(image: Image.Image) -> Gray:
    """Return the digit in an image in MNIST's format: uint8 [28, 28], ink 255 on 0.

    The ink may be darker or lighter than its background, or of another color. The background may be
    flat, transparent, paper or a screen. Raises BlankImage if nothing differs from the background.
    """
    return prepare_with_doubt(image).pixels


def prepare_with_doubt(image: Image.Image, is_drawing: bool = False) -> Prepared:
    """Return the digit in an image as `prepare` does, and why it may not be one digit.

    is_drawing: the image has only white strokes on black, mode L, and is not segmented.
    """
    if is_drawing:
        drawing = np.asarray(image, np.float32)
        if drawing.max() < MIN_CONTRAST:
            raise BlankImage(BLANK)
        return Prepared(_normalize(drawing), None)
    image = reduce_large(image)
    gray = np.asarray(_opaque(image, "L"))
    ink = _ink_on_flat(gray)
    if max(image.size) < CROP_PX:
        return Prepared(_normalize(_ink_of_crop(gray) if ink is None else ink), None)
    if ink is not None:
        return _prepare_flat(ink)
    found = find_digit(_opaque(image, "RGB"))
    if found is None:
        raise BlankImage(BLANK)
    return Prepared(_normalize(found.ink), found.doubt)


def _prepare_flat(ink: Ink) -> Prepared:
    """Return the digit on a flat background, without ink that surrounds it on all sides."""
    if _is_connected(ink):
        return Prepared(_normalize(ink), None)
    border = max(ink.shape) // 8
    image = ImageOps.expand(Image.fromarray(ink.astype(np.uint8)), border)
    found = find_digit(image.convert("RGB"))
    if found is None or found.doubt == "unclear_picture":
        return Prepared(_normalize(ink), None)
    left, top, right, bottom = found.box * (*image.size, *image.size)
    gap = min(left, top, image.width - right, image.height - bottom) - border
    has_frame = not found.doubt and gap > FRAME_SHARE * max(ink.shape)
    return Prepared(_normalize(found.ink if has_frame else ink), found.doubt)


def _is_connected(ink: Ink) -> bool:
    """Return whether the ink is in one piece, but for gaps of a few pixels."""
    _, _, root = runs(_reduced(ink > INK_THRESHOLD * ink.max()) > 0)
    return not root.any()


def _reduced(mask: Mask) -> Gray:
    """Return how much of each pixel is covered, 0 to 255, reduced to at most MASK_PX pixels."""
    factor = -(-max(mask.shape) // MASK_PX)
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).reduce(factor))


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in mode L or RGB, with transparent pixels on a backing."""
    if not image.has_transparency_data:
        return image.convert(mode)
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert(mode)
    box = alpha.getbbox()
    if box is None:
        return Image.new(mode, image.size)
    rgba, alpha = rgba.crop(box), alpha.crop(box)
    gray = rgba.convert("L")
    level = _backing_level(gray, alpha, image.width * image.height)
    backing = Image.new("L", image.size, level).convert(mode)
    backing.paste(gray if mode == "L" else rgba.convert(mode), box, alpha)
    return backing


def _backing_level(gray: Image.Image, alpha: Image.Image, area: int) -> int:
    """Return the gray level to put behind a transparent image so that its ink is visible.

    gray, alpha: the part that has any opacity; area: of the image.
    """
    opacity = np.asarray(alpha)
    visible = np.asarray(gray)[opacity > opacity.max() // 2]
    has_background = 2 * visible.size > area  # only a part is transparent
    if has_background and np.ptp(visible) >= MIN_CONTRAST:
        return int(np.median(visible))
    return 255 if visible.mean() < 128 else 0


def _ink_on_flat(gray: Gray) -> Ink | None:
    """Return how much each pixel differs from a background of one gray level, [height, width].

    Returns None if the background has several levels, or if the ink does not stand out. Rows and
    columns of bare background at the edges are cropped.
    """
    counts = np.bincount(_edge(gray), minlength=256)
    level = int(counts.argmax())
    if 2 * counts[level] <= counts.sum():
        return None
    differs = gray != level
    rows, columns = (np.flatnonzero(differs.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    shape = gray.shape
    gray = gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    above, below = int(gray.max()) - level, level - int(gray.min())
    is_light = gray.sum() > gray.size * level
    contrast, rest = (above, below) if is_light else (below, above)
    if contrast < MIN_CONTRAST or rest >= MIN_CONTRAST:
        return None
    ink = np.maximum(gray, level) - level if is_light else level - np.minimum(gray, level)
    if _has_panel(ink, shape) or _has_line(ink, shape):
        return None
    return np.asarray(ink, np.float32)


def _has_panel(ink: NDArray[np.uint8], shape: tuple[int, ...]) -> bool:
    """Return whether the ink has an area or a frame on which something is drawn.

    ink: without bare rows and columns at the edges; shape: of the image.
    """
    counts = np.bincount(ink[ink > 0])
    level = int(counts.argmax())
    if 2 * counts[level] > math.prod(shape) and _surrounds_digit(ink >= level - MIN_CONTRAST):
        return True
    is_fainter = level + MIN_CONTRAST < len(counts)
    if is_fainter and 2 * counts[level] > counts.sum():
        return True
    height, width = ink.shape
    return bool(2 * width > height and np.mean(_edge(ink) >= MIN_CONTRAST) > 0.9)


def _surrounds_digit(mask: Mask) -> bool:
    """Return whether ink that covers most of an image is a panel, and not a bold digit with gaps.

    A panel is convex. Of the digits, only a 0 is. Its gap is convex too, and is as far from the
    sides as from the top and bottom.
    """
    ink = _reduced(mask) >= 128
    background = np.pad(~ink, 1, constant_values=True)
    parts = components(background, background.astype(np.float32))
    enclosed = np.flatnonzero((parts.left > 0) & (parts.area > 4))
    gap = np.isin(parts.labels, enclosed)[1:-1, 1:-1]
    if not gap.any() or not _is_convex(ink | gap):
        return False
    if not _is_convex(gap):
        return True
    height, width = gap.any(axis=1).sum(), gap.any(axis=0).sum()
    difference = (ink.shape[0] - height) - (ink.shape[1] - width)
    return bool(abs(difference) > MAX_MARGIN_DIFFERENCE * max(height, width))


def _is_convex(mask: Mask) -> bool:
    """Return whether the rows and columns of a mask have almost no gaps."""
    rows, columns = (
        np.maximum.accumulate(mask, axis)
        & np.flip(np.maximum.accumulate(np.flip(mask, axis), axis), axis)
        for axis in (1, 0)
    )
    return bool(((rows | columns) & ~mask).sum() < MAX_CONCAVITY * mask.sum())


def _has_line(ink: NDArray[np.uint8], shape: tuple[int, ...]) -> bool:
    """Return whether a line that is too thin for a pen crosses the image, as on squared paper.

    ink: without bare rows and columns at the edges; shape: of the image.
    """
    if min(shape) < LINED_PX:
        return False
    mask = ink >= MIN_CONTRAST
    for rows, length in ((mask, shape[1]), (mask.T, shape[0])):
        if rows.shape[1] == length:
            covered = np.pad(rows.mean(axis=1), 1)
            changes = np.flatnonzero(np.diff(covered > 0.75)) + 1
            widths = changes[1::2] - changes[::2]
            is_full = np.maximum.reduceat(covered, changes)[::2] > 0.95
            if (is_full & (widths <= MAX_LINE_WIDTH * max(shape))).any():
                return True
    return False


def _ink_of_crop(gray: Gray) -> Ink:
    """Return the ink of a small image, which the digit fills: what differs from its corners."""
    contrast = gray - np.float32(_level_of_corners(gray))
    ink = np.maximum(contrast, 0) if contrast.sum() > 0 else np.maximum(-contrast, 0)
    if ink.max() < MIN_CONTRAST:
        raise BlankImage(BLANK)
    return np.asarray(ink, np.float32)


def _level_of_corners(gray: Gray) -> float:
    """Return the level of the background of a tight crop, which its corners show.

    The ink is separated from the background by Otsu's threshold (A Threshold Selection Method
    from Gray-Level Histograms, 1979), which maximizes the variance between the two.
    """
    counts = np.bincount(gray.ravel(), minlength=256)
    darker, sums = counts.cumsum()[:-1], (counts * np.arange(256)).cumsum()
    variance = (sums[-1] * (darker / gray.size) - sums[:-1]) ** 2
    is_light = gray > (variance / np.maximum(darker * (gray.size - darker), 1)).argmax()
    corners = is_light[[0, 0, -1, -1], [0, -1, 0, -1]]
    background_is_light = np.median([*corners, is_light.mean() > 0.5])
    return float(np.median(gray[is_light == background_is_light]))


def _edge(gray: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate((gray[0], gray[-1], gray[:, 0], gray[:, -1]))


def _normalize(ink: Ink) -> Gray:
    """Return the ink inside its bounding box, scaled and centered, uint8 [28, 28]."""
    box = ink[_extent(ink)]
    box = box[:, _extent(box.T)]
    scale = max(box.shape) / DIGIT_PX  # input pixels per output pixel
    rows = _area_weights(box.sum(axis=1), scale)
    columns = _area_weights(box.sum(axis=0), scale)
    scaled = rows @ box @ columns.T
    # All MNIST images reach 255; averaging makes a thin line fainter.
    pixels: Gray = np.rint(scaled * (255 / scaled.max())).astype(np.uint8)
    return pixels


def _extent(ink: Ink) -> slice:
    """Return the extent of the digit along the first axis.

    The digit ends one pixel beyond the last pixel above the threshold, where its edge fades.
    Faint ink further out is noise of a camera or an artifact of compression.
    """
    strongest = ink.max(axis=1)
    clear = np.zeros(len(ink) + 2, bool)
    clear[1:-1] = strongest > INK_THRESHOLD * strongest.max()
    changes = np.flatnonzero(clear[1:] != clear[:-1])
    if len(changes) > 2:
        changes = _without_specks(changes, ink.sum(axis=1))
    begin, end = int(changes[0]), int(changes[-1])
    begin -= begin > 0 and strongest[begin - 1] > 0
    end += end < len(strongest) and strongest[end] > 0
    return slice(begin, end)


def _without_specks(changes: NDArray[np.intp], total: Ink) -> NDArray[np.intp]:
    """Return where runs of ink begin and end, alternately, without those that are specks.

    total: the sum of the ink at each position along the axis. The further a run is away from the
    largest one, the more ink it may have and still be a speck.
    """
    begins, ends = changes[::2], changes[1::2]
    sums = np.concatenate(([0], np.cumsum(total)))
    shares = (sums[ends] - sums[begins]) / sums[-1]
    main = shares.argmax()
    gaps = np.maximum(begins[main] - ends, begins - ends[main]).clip(0) / (ends[-1] - begins[0])
    limit = SPECK_SHARE + FAR_SPECK_SHARE * gaps if shares[main] >= SPECK_SHARE else 0
    kept: NDArray[np.intp] = changes.reshape(-1, 2)[shares >= limit].ravel()
    return kept


def _area_weights(profile: Ink, scale: float) -> Ink:
    """Return how much of each input pixel is in each output pixel of an axis, float32 [28, size].

    profile: the sum of the ink at each of `size` positions. Its center of mass is placed in the
    middle of the output, or as near as the edges allow. scale: input pixels per output pixel.
    """
    size = len(profile)
    pixels = np.arange(size, dtype=np.float32)
    middle = float(profile @ pixels) / float(profile.sum()) + 0.5
    room = IMAGE_PX - math.ceil(size / scale - 1e-6)
    start = min(max(math.ceil(IMAGE_PX / 2 - middle / scale), 0), room)
    edges = (np.arange(IMAGE_PX + 1) - start) * scale
    # The share of each input pixel that lies before each edge of an output pixel.
    before = (edges[:, np.newaxis] - pixels).clip(0, 1).astype(np.float32)
    return np.diff(before, axis=0)
