"""Find the one digit in an image of paper or of a screen.

1. The background is a wide median. Ink is what is outside the range of the backgrounds nearby, in
   any color channel, so that shadows, panels and the edges of sheets are background.
2. Ruled lines are removed, and strokes that they cross are repaired.
3. Connected components of ink are digits, parts of one, or neither: frames, bars, blobs, specks,
   and what continues beyond the image.

Each background, threshold and color gives a candidate; the digit is where most of them agree.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

WORK_PX = 320  # longer edge of the copy that is segmented
WINDOWS = ((10, 13), (5, 9))  # of the median: pixels per coarse pixel, coarse pixels
THRESHOLDS = (0.3, 0.6)  # of the strongest ink
CLEAR_SEPARATION = 15  # separation of ink and paper
MIN_AREA = 12  # pixels; smaller components are noise
MIN_INK = 8  # levels between ink and background
NOISE_FACTOR = 4.5  # standard deviations
LINE_SLOPES = np.tan(np.radians(np.arange(-16, 17)))
LINE_DIRECTIONS = 6  # in one image: parallel lines are not parallel in perspective
MIN_LINE_COVERAGE = 0.85  # of the left or right third of the image: what covers more is a line
PEN_TO_LINE_RATIO = 1.6  # ink that exceeds a line's by this factor is a stroke that crosses it
LINE_PX = 7  # maximum thickness of a line
MIN_OVERLAP = 0.6  # intersection over union of the boxes of two candidates
SEVERAL_SHARE = 0.5  # of the quality at the best place: more candidates see several digits
FRAMED_FACTOR = 3  # factor for what is inside a frame: with the frame as a part, it would be larger
MIN_FRAME_PX = 12  # shorter side of a frame
CLUTTER_FACTOR = 0.01  # factor for what is not a digit, and chosen only if there is nothing else

Ink = NDArray[np.float32]
Mask = NDArray[np.bool_]


class DetectedDigit(NamedTuple):
    """The ink of the digit, float32 [height, width], why it may not be one, and where it is."""

    ink: Ink
    doubt: str | None
    # Left, top, right, bottom with a margin of 4 pixels, as shares of the image's sides.
    box: NDArray[np.float64]


class Candidate(NamedTuple):
    """What may be the digit, and its quality."""

    quality: float
    digit: DetectedDigit


class Components(NamedTuple):
    """Connected components of a mask; each array has one value per component."""

    labels: NDArray[np.intp]  # [height, width], -1 outside
    left: NDArray[Any]
    top: NDArray[Any]
    right: NDArray[Any]
    bottom: NDArray[Any]
    area: NDArray[Any]
    mass: NDArray[Any]  # sum of the ink
    border: NDArray[Any]  # pixels at the image's edge
    outline: NDArray[Any]  # pixels beside which is no ink

    @property
    def width(self) -> Any:
        return self.right - self.left

    @property
    def height(self) -> Any:
        return self.bottom - self.top


def find_digit(image: Image.Image) -> DetectedDigit | None:
    """Return the digit in an RGB image, or None if nothing can be seen in it.

    It is the best candidate at the place where most candidates are, weighted by their quality.
    """
    candidates = list(_candidates(_work_copy(image)))
    if not candidates:
        return None
    quality = np.array([candidate.quality for candidate in candidates])
    several = np.array([each.digit.doubt == "several_digits" for each in candidates])
    overlap = _overlap(np.array([candidate.digit.box for candidate in candidates]))
    support = (overlap > MIN_OVERLAP) @ quality
    place = overlap[support.argmax()]
    digit = candidates[int(np.where(place > MIN_OVERLAP, quality, -1).argmax())].digit
    if quality[(place > 0.1) & several].sum() > SEVERAL_SHARE * support.max():
        return digit._replace(doubt="several_digits")
    return digit


def _overlap(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Return the intersection over union of all pairs of boxes [n, 4], float64 [n, n]."""
    low = np.maximum(boxes[:, None, :2], boxes[:, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    common = (high - low).clip(0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    overlap: NDArray[np.float64] = common / (areas[:, None] + areas - common)
    return overlap


def _candidates(work: Image.Image) -> Iterator[Candidate]:
    """Yield a candidate for each background, threshold and color of ink."""
    pixels = np.asarray(work)
    noise = NOISE_FACTOR * _noise(pixels.astype(np.float32))
    for window in WINDOWS:
        contrast = _contrast(work, *window)
        ink = np.abs(contrast).max(axis=2)
        for mask, all_ink in _masks(contrast, ink, max(MIN_INK, noise)):
            if not mask.any():
                continue
            parts = components(mask, ink)
            if parts.area.max() < MIN_AREA:
                continue
            group, score, doubt, rival = _choose(parts, ink.shape)
            separation, digit = _extract(pixels, contrast, parts, group, all_ink)
            if _has_blob(parts, group):
                score, doubt = score * CLUTTER_FACTOR, "unclear_picture"
            if rival.size:  # if it hardly stands out, it is a stain, not a digit
                rivals, _ = _extract(pixels, contrast, parts, rival, all_ink)
                doubt = (
                    "several_digits" if rivals > min(separation, CLEAR_SEPARATION) / 4 else doubt
                )
            rows, columns = _box(parts, group, 4)
            corners = (columns.start, rows.start, columns.stop, rows.stop)
            box = np.array(corners) / (*work.size, *work.size)
            yield Candidate(score * separation / (separation + 3), DetectedDigit(digit, doubt, box))


def _masks(contrast: Ink, ink: Ink, faintest: float) -> Iterator[tuple[Mask, Mask]]:
    """Yield masks that may show the digit, each with the mask of all ink, bool [h, w]."""
    # The ink of a small digit is a smaller share of the image than that of a large one.
    strongest, strong = np.quantile(ink, (0.9995, 0.997))
    thresholds = [share * strong for share in THRESHOLDS]
    if strongest > 1.5 * strong:
        thresholds = [share * strongest for share in THRESHOLDS] + thresholds
    for threshold in thresholds:
        mask = ink > max(faintest, threshold)
        yield mask, mask
        without_lines = _without_lines(mask, ink)
        if (without_lines != mask).any():
            yield without_lines, mask
    mask = ink > max(faintest, THRESHOLDS[0] * strong)
    for color in _split_by_color(contrast, mask):
        yield color, mask


def _split_by_color(contrast: Ink, mask: Mask) -> list[Mask]:
    """Return the pixels of two colors of ink: 2-means."""
    values = contrast[mask]
    if len(values) < 2:
        return []
    values = values / np.linalg.norm(values, axis=1, keepdims=True)
    mean = values.mean(axis=0)
    middles = [mean, values[((values - mean) ** 2).sum(axis=1).argmax()]]
    for _ in range(6):
        near = [((values - middle) ** 2).sum(axis=1) for middle in middles]
        is_second = near[1] < near[0]
        if is_second.all() or not is_second.any():
            return []
        middles = [values[~is_second].mean(axis=0), values[is_second].mean(axis=0)]
    second = np.zeros_like(mask)
    second[mask] = is_second
    return [second, mask & ~second]


def _work_copy(image: Image.Image) -> Image.Image:
    """Return the image, reduced if its longer edge exceeds WORK_PX."""
    factor = max(image.size) / WORK_PX
    if factor <= 1:
        return image
    size = [max(1, round(side / factor)) for side in image.size]
    return image.resize(size, Image.Resampling.BOX, reducing_gap=2)


def _contrast(image: Image.Image, coarse: int, window: int) -> Ink:
    """Return how far each pixel is above (or, negative, below) the backgrounds nearby, [h, w, 3].

    coarse: pixels per pixel of the background; window: edge of the median filter there.
    """
    size = [max(1, -(-side // coarse)) for side in image.size]
    small = image.resize(size, Image.Resampling.BOX)
    median = small.filter(ImageFilter.MedianFilter(window))
    bilinear = Image.Resampling.BILINEAR
    low = np.asarray(median.filter(ImageFilter.MinFilter(3)).resize(image.size, bilinear))
    high = np.asarray(median.filter(ImageFilter.MaxFilter(3)).resize(image.size, bilinear))
    pixels = np.asarray(image)
    above = np.maximum(pixels, high) - high
    below = low - np.minimum(pixels, low)
    contrast: Ink = above.astype(np.float32) - below
    return contrast


def _noise(pixels: Ink) -> float:
    """Return the standard deviation of the noise, from neighboring pixels of a channel."""
    steps = np.abs(np.diff(pixels[:, :, 1], axis=1))
    # The median of such a difference is 0.954 standard deviations if the noise is normal.
    return float(np.median(steps)) / 0.954 if steps.size else 0.0


def runs(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Find the horizontal runs of a mask, and connect those that touch along edges or corners.

    Returns begins, ends and root, intp [n] each. Begins and ends are positions in the flattened
    mask with one more column on the right; root is the first run of the same component.
    """
    height, width = mask.shape
    stride = width + 1
    flat = np.zeros(1 + height * stride, bool)
    flat[1:].reshape(height, stride)[:, :-1] = mask
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    begins, ends = changes[::2], changes[1::2]
    first = np.searchsorted(ends, begins + stride)  # runs of the next row that touch this one
    last = np.searchsorted(begins, ends + stride, "right")
    counts = (last - first).clip(0)
    upper = np.repeat(np.arange(len(begins)), counts)
    offsets = np.arange(len(upper)) - np.repeat(counts.cumsum() - counts, counts)
    return begins, ends, _connect(len(begins), upper, first[upper] + offsets)


def components(mask: Mask, ink: Ink) -> Components:
    """Return the components of a mask, whose pixels are connected along edges or corners."""
    height, width = mask.shape
    stride = width + 1
    begins, ends, root = runs(mask)
    _, label = np.unique(root, return_inverse=True)
    count = int(label.max(initial=-1)) + 1

    lengths, rows, columns = ends - begins, begins // stride, begins % stride
    sums = np.concatenate(([0], np.cumsum(np.pad(ink, ((0, 0), (0, 1))).ravel(), dtype=np.float64)))
    left, top = np.full(count, width), np.full(count, height)
    right, bottom = np.zeros(count, int), np.zeros(count, int)
    np.minimum.at(left, label, columns)
    np.minimum.at(top, label, rows)
    np.maximum.at(right, label, columns + lengths)
    np.maximum.at(bottom, label, rows + 1)
    at_edge = (columns == 0).astype(int) + (columns + lengths == width)
    at_edge = np.where((rows == 0) | (rows == height - 1), lengths, at_edge)
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    labels = np.full(mask.shape, -1)
    labels[mask] = np.repeat(label, lengths)
    return Components(
        labels,
        *(left, top, right, bottom),
        np.bincount(label, lengths, count),
        np.bincount(label, sums[ends] - sums[begins], count),
        np.bincount(label, at_edge, count),
        np.bincount(labels[mask & ~inner], minlength=count),
    )


def _connect(count: int, one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the smallest node that each of `count` nodes is connected to by the given edges."""
    root = np.arange(count)
    while True:
        root_one, root_other = root[one], root[other]
        if (root_one == root_other).all():
            return root
        np.minimum.at(root, root_one, root_other)
        np.minimum.at(root, root_other, root_one)
        while (root != (higher := root[root])).any():
            root = higher


# ---- ruled lines -----------------------------------------------------------------------------


def _without_lines(mask: Mask, ink: Ink) -> Mask:
    """Return the mask without lines across the image."""
    mask = _without_horizontal_lines(mask, ink)
    return _without_horizontal_lines(mask.T, ink.T).T


def _without_horizontal_lines(mask: Mask, ink: Ink) -> Mask:
    width = mask.shape[1]
    rows, columns = np.nonzero(mask)
    if len(rows) < width / 2 or width < 3 * LINE_PX:
        return mask
    mask = mask.copy()
    profiles = [_profile(rows, columns, slope, width) for slope in LINE_SLOPES]
    sharpest = np.argsort([-(profile**2).sum() for profile in profiles])
    for slope in LINE_SLOPES[sharpest[:LINE_DIRECTIONS]]:
        counts = _profile(rows, columns, slope, width)
        near = counts[:-2] + counts[1:-1] + counts[2:]
        reach = near[:, ::2].max()
        if reach > width / 3 * MIN_LINE_COVERAGE and _remove_lines(mask, ink, slope):
            rows, columns = np.nonzero(mask)
    return mask


def _profile(
    rows: NDArray[np.intp], columns: NDArray[np.intp], slope: float, width: int
) -> NDArray[np.intp]:
    """Return the number of pixels on each line of a slope, in each third of the image: [n, 3]."""
    line = (rows - (columns - width / 2) * slope + width).astype(int)
    counts = np.bincount(3 * line + columns * 3 // width, minlength=9)
    return np.pad(counts, (0, -len(counts) % 3)).reshape(-1, 3)


def _remove_lines(mask: Mask, ink: Ink, slope: float) -> bool:
    """Remove lines of a slope that reach the left or the right edge; return whether there are any.

    The mask is changed. It is sheared, so that lines of the slope are rows.
    """
    height, width = mask.shape
    columns = np.arange(width)
    shift = np.rint((columns - width / 2) * slope).astype(int)
    margin = LINE_PX + int(np.abs(shift).max())
    at = np.arange(-margin, height + margin)[:, None] + shift  # row of the mask, by sheared row
    inside = (at >= 0) & (at < height)
    at = at.clip(0, height - 1)
    sheared = mask[at, columns] & inside
    third = columns * 3 // width
    thick = _dilate_rows(sheared, 1)
    share = np.add.reduceat(thick, np.searchsorted(third, (0, 1, 2)), axis=1, dtype=int) * (
        3 / width
    )
    end = max(2, width // 50)
    is_line = share > MIN_LINE_COVERAGE
    is_line[:, 0] &= thick[:, :end].any(axis=1)
    is_line[:, 2] &= thick[:, -end:].any(axis=1)
    is_line[:, 1] &= _dilate_rows(is_line[:, :1] | is_line[:, 2:], 2)[:, 0]
    thick_area = _dilate_rows(~_dilate_rows(~is_line, LINE_PX // 2 + 1), LINE_PX)
    is_line &= ~thick_area
    line = _dilate_rows(is_line, 1)[:, third] & sheared
    if not line.any():
        return False
    levels = ink[at, columns]
    rest = sheared & ~line  # where it is above and below a line, a stroke crosses the line
    rest[:, 1:-1] |= rest[:, 2:] | rest[:, :-2]
    above, below = np.zeros_like(rest), np.zeros_like(rest)
    for step in range(1, LINE_PX):
        above[step:] |= rest[:-step]
        below[:-step] |= rest[step:]
    strong = levels > PEN_TO_LINE_RATIO * np.median(levels[line])
    r, c = np.nonzero(line & ~strong & ~(above & below))
    mask[at[r, c], c] = False
    return True


def _dilate_rows(mask: Mask, count: int) -> Mask:
    """Return the mask, enlarged by a number of rows upwards and downwards."""
    result = mask.copy()
    for step in range(1, count + 1):
        result[step:] |= mask[:-step]
        result[:-step] |= mask[step:]
    return result


# ---- choice ----------------------------------------------------------------------------------


def _choose(
    parts: Components, shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], float, str | None, NDArray[np.intp]]:
    """Return the components that form the digit, its score, the doubt, and another digit if any.

    The digit is large, strong and near the middle; clutter is chosen if there is nothing else.
    """
    height, width = shape
    middle_x, middle_y = (parts.left + parts.right) / 2, (parts.top + parts.bottom) / 2
    away = np.hypot(middle_x / width - 0.5, middle_y / height - 0.5)
    score = parts.height * np.sqrt(parts.mass) * np.exp(-2 * away**2)
    score = np.where(parts.border > 0, score * 0.3, score)  # it may be cut off
    frames, framed = _frames(parts)
    score = np.where(framed, score * FRAMED_FACTOR, score)
    clutter = _is_clutter(parts, shape) | frames
    score = np.where(clutter, score * CLUTTER_FACTOR, score)
    main = int(score.argmax())
    group = [main]
    box = [parts.left[main], parts.top[main], parts.right[main], parts.bottom[main]]
    tall = box[3] - box[1]
    rival: list[int] = []
    for i in np.argsort(-score):
        if i == main or parts.area[i] < 4:
            continue
        gap_x = max(parts.left[i] - box[2], box[0] - parts.right[i])
        gap_y = max(parts.top[i] - box[3], box[1] - parts.bottom[i])
        beside = gap_x > -0.1 * tall or gap_y > -0.1 * tall
        large = parts.height[i] > 0.6 * tall and parts.mass[i] > 0.2 * parts.mass[main]
        is_ring_of_8 = gap_y < 0.06 * tall and gap_x < -0.4 * parts.width[i]
        if large and beside and not clutter[i] and not is_ring_of_8:
            rival = rival or [int(i)]
        elif not clutter[i] and max(gap_x, gap_y) < 0.1 * tall:
            group.append(int(i))
            box = [
                *np.minimum(box[:2], (parts.left[i], parts.top[i])),
                *np.maximum(box[2:], (parts.right[i], parts.bottom[i])),
            ]
    doubt = "unclear_picture" if clutter[main] else None
    return np.array(group), float(score[main]), doubt, np.array(rival, int)


def _is_clutter(parts: Components, shape: tuple[int, ...]) -> Mask:
    """Return which components are not a digit: cut off, bars and lines."""
    width, height, edge = parts.width, parts.height, min(shape)
    longer = np.maximum(width, height)
    cut_off = parts.border > 0.12 * longer
    bar = (width > 4 * height) & (width > 0.1 * edge)
    across = ((width == shape[1]) | (height == shape[0])) & (parts.area < 2 * parts.outline)
    clutter: Mask = cut_off | bar | across
    return clutter


def _frames(parts: Components) -> tuple[Mask, Mask]:
    """Return which components are frames, and which are inside one: bool [n] each."""
    width, height = parts.width, parts.height
    is_thin = (parts.area < 0.4 * width * height) & (np.minimum(width, height) > MIN_FRAME_PX)
    outer = np.flatnonzero(is_thin)
    inside = (
        (parts.left[outer, None] < parts.left)
        & (parts.right[outer, None] > parts.right)
        & (parts.top[outer, None] < parts.top)
        & (parts.bottom[outer, None] > parts.bottom)
    )
    # A slanted line inside belongs to the digit: a slashed 0, or a 0 that begins inside. A 1 is
    # steeper.
    slash = (parts.outline < 2.5 * np.maximum(width, height)) & (width > 0.6 * height)
    large = inside & (height[outer, None] * 0.3 < height)
    is_frame = (large & ~slash).any(axis=1) | (large.sum(axis=1) > 1)
    frames = np.zeros(len(width), bool)
    frames[outer[is_frame]] = True
    return frames, inside[is_frame].any(axis=0)


def _has_blob(parts: Components, group: NDArray[np.intp]) -> bool:
    """Return whether a digit has an area that is too thick for a pen."""
    box = _box(parts, group)
    member = np.isin(parts.labels[box], group)
    thick = round(0.18 * (box[0].stop - box[0].start))
    return not _dilate_rows(_dilate_rows(~np.pad(member, 1), thick).T, thick).all()


def _extract(
    pixels: NDArray[np.uint8],
    contrast: Ink,
    parts: Components,
    group: NDArray[np.intp],
    all_ink: Mask,
) -> tuple[float, Ink]:
    """Return how well the digit stands out, and its ink along the axis of its color, 0 to 255.

    pixels: uint8 [h, w, 3]; group: indices of the digit's components; all_ink: the ink of others
    is left out.
    """
    box = _box(parts, group, 4)
    labels, contrast, pixels = parts.labels[box], contrast[box], pixels[box]
    member = np.isin(labels, group)
    inside = contrast[member]  # [n, 3]
    color = inside.mean(axis=0)
    if not color.any():  # as much of it is lighter than its background as is darker
        color = inside[0]
    color /= max(float(np.linalg.norm(color)), 1e-6)
    ink = np.maximum(contrast @ color, 0)
    is_other = all_ink[box] & ~member
    near = _dilate(member)
    ink[~near | is_other] = 0
    full = max(float(np.quantile(ink[member], 0.7)), 1e-6)
    paper = _dilate(near) & ~near & ~is_other
    separation = _separation(pixels[member] @ color, pixels[paper] @ color)
    return separation, np.minimum(ink * (255 / full), 255)


def _box(parts: Components, group: NDArray[np.intp], margin: int = 0) -> tuple[slice, slice]:
    """Return the rows and columns of components."""
    return (
        slice(max(0, parts.top[group].min() - margin), parts.bottom[group].max() + margin),
        slice(max(0, parts.left[group].min() - margin), parts.right[group].max() + margin),
    )


def _dilate(mask: Mask) -> Mask:
    """Return the mask, enlarged by two pixels on each side."""
    return _dilate_rows(_dilate_rows(mask, 2).T, 2).T


def _separation(one: Ink, other: Ink) -> float:
    """Return Fisher's criterion: the distance of two samples in terms of their deviations."""
    if not (len(one) and len(other)):
        return 0.0
    return float((one.mean() - other.mean()) ** 2 / (one.var() + other.var() + 4))
