"""Shapes of digits that people in different countries write: a 1 with a foot, a slashed 0.

The data sets of pen strokes lack some of them. Each function draws one shape with random points,
angles and proportions, within the range that people still recognize as the digit.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from train.sources import Drawing, Points

Rng = np.random.Generator
Shape = Callable[[Rng], list[Points]]  # returns strokes in a box about 1 high, y down

POINTS_PER_SEGMENT = 8
JITTER = 0.025  # standard deviation of a skeleton's points


def curve(rng: Rng, *points: tuple[float, float]) -> Points:
    """Return a smooth path (Catmull-Rom spline) through points that are moved a little."""
    knots = np.array(points) + rng.normal(0, JITTER, (len(points), 2))
    ends = 2 * knots[0] - knots[1], 2 * knots[-1] - knots[-2]
    p = np.concatenate(([ends[0]], knots, [ends[1]]))
    t = np.linspace(0, 1, POINTS_PER_SEGMENT, endpoint=False)[:, np.newaxis]
    segments = [
        b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate([*segments, knots[-1:]])


def line(rng: Rng, *points: tuple[float, float]) -> Points:
    """Return straight lines, which are bent a little, through points that are moved a little."""
    knots = np.array(points) + rng.normal(0, JITTER, (len(points), 2))
    paths = []
    for start, end in pairwise(knots):
        bend = rng.normal(0, 0.03) * (end - start)[::-1] * (1, -1)
        t = np.linspace(0, 1, POINTS_PER_SEGMENT)[:, np.newaxis]
        paths.append(start + t * (end - start) + 4 * t * (1 - t) * bend)
    return np.concatenate(paths)


def oval(rng: Rng, x: float, y: float, rx: float, ry: float, start: float, end: float) -> Points:
    """Return an arc of an ellipse around (x, y); angles in degrees, from the right, clockwise."""
    angle = np.radians(np.linspace(start, end, 3 + abs(int(end - start)) // 12))
    drift = np.linspace(0, 1, len(angle))[:, np.newaxis] * rng.normal(0, 0.04, 2)
    return np.stack((x + rx * np.cos(angle), y + ry * np.sin(angle)), axis=1) + drift


def _join(*paths: Points) -> Points:
    return np.concatenate(paths)


# ---- 0 ----------------------------------------------------------------------------------------


def _zero(rng: Rng) -> list[Points]:
    start, turn = rng.uniform(-130, -30), rng.uniform(335, 400) * rng.choice((-1, 1))
    return [oval(rng, 0, 0.5, rng.uniform(0.22, 0.5), 0.5, start, start + turn)]


def _zero_with_curl(rng: Rng) -> list[Points]:
    """Return a ring whose stroke runs on inside or outside of the ring."""
    width = rng.uniform(0.25, 0.45)
    ring = oval(rng, 0, 0.5, width, 0.5, -80, -80 - rng.uniform(340, 380))
    x, y = ring[-1]
    end = (x + rng.uniform(-0.2, 0.4), y + rng.uniform(-0.15, 0.15))
    return [_join(ring, curve(rng, (x, y), end))]


def _slashed_zero(rng: Rng) -> list[Points]:
    """Return a ring and a line that crosses it, ends in it or sticks out at one or both sides."""
    (ring,) = _zero(rng)
    width, side = np.ptp(ring[:, 0]) / 2, rng.choice((1, 1, 1, -1))
    up, down = rng.uniform(0.5, 1.35, 2)
    slope = rng.uniform(0.7, 1.1)
    start = (side * width * up, 0.5 - 0.5 * slope * up)
    end = (-side * width * down, 0.5 + 0.5 * slope * down)
    return [ring, line(rng, start, end)]


def _dotted_zero(rng: Rng) -> list[Points]:
    (ring,) = _zero(rng)
    x, y = rng.normal((0, 0.5), 0.03)
    return [ring, line(rng, (x, y - 0.03), (x, y + 0.03))]


# ---- 1 ----------------------------------------------------------------------------------------


def _one(rng: Rng) -> list[Points]:
    lean = rng.normal(0.05, 0.1)
    return [line(rng, (lean, 0), (0, 1))]


def _upstroke(rng: Rng, x: float) -> Points:
    """Return a line up to (x, 0), 10 to 85 % as high as the stem, straight or bent."""
    height = rng.uniform(0.1, 0.85)
    angle = math.radians(rng.uniform(18, 50 if height > 0.3 else 60))  # from the vertical
    start = (x - height * math.tan(angle) * rng.uniform(0.7, 1), height)
    bend = rng.normal(0.02, 0.03)
    return curve(rng, start, ((start[0] + x) / 2 + bend, height / 2 + bend), (x, 0))


def _foot(rng: Rng) -> Points:
    left, right = rng.uniform(0.1, 0.45, 2)
    return line(rng, (-left, 1), (right, 1 + rng.normal(0, 0.03)))


def _one_with_upstroke(rng: Rng) -> list[Points]:
    lean = rng.normal(0.03, 0.08)
    stem = line(rng, (lean, 0), (0, 1))
    upstroke = _upstroke(rng, lean)
    if rng.random() < 0.2:  # in two strokes, which do not quite meet
        strokes = [upstroke + rng.normal(0, 0.03, 2), stem]
    else:
        strokes = [_join(upstroke, stem)]
    return [*strokes, _foot(rng)] if rng.random() < 0.3 else strokes


def _one_with_foot(rng: Rng) -> list[Points]:
    return [*_one(rng), _foot(rng)]


def _one_with_tail(rng: Rng) -> list[Points]:
    """Return an upstroke, a stem, and a short turn to the right at its end."""
    lean, turn = rng.normal(0.05, 0.08), rng.uniform(0.08, 0.25)
    stem = curve(rng, (lean, 0), (lean / 2, 0.5), (0.02, 0.92), (turn, 1 - turn / 3))
    return [_join(_upstroke(rng, lean), stem) if rng.random() < 0.7 else stem]


# ---- 2 ----------------------------------------------------------------------------------------


def _head(rng: Rng, width: float) -> list[tuple[float, float]]:
    """Return the upper half of a 2, from its start to where it comes down."""
    y = rng.uniform(0.12, 0.34)
    return [(0, y), (width * 0.45, 0), (width, 0.25), (width * 0.6, 0.62)]


def _two(rng: Rng) -> list[Points]:
    width = rng.uniform(0.4, 0.75)
    down = curve(rng, *_head(rng, width), (-0.02, 1))
    return [
        _join(down, line(rng, (-0.02, 1), (width * rng.uniform(0.9, 1.3), rng.normal(1, 0.04))))
    ]


def _two_with_loop(rng: Rng) -> list[Points]:
    """Return a 2 whose stroke turns through a loop at the lower left."""
    width, loop = rng.uniform(0.4, 0.75), rng.uniform(0.06, 0.22)
    return [
        curve(
            rng,
            *_head(rng, width),
            (loop, 0.93),
            (-loop / 2, 1 - loop / 4),
            (-loop / 3, 1 - 1.2 * loop),
            (loop, 1 - loop),
            (width * 0.6, 0.97),
            (width * rng.uniform(1, 1.3), rng.uniform(0.85, 1)),
        )
    ]


def _two_with_closed_head(rng: Rng) -> list[Points]:
    """Return a 2 whose stroke begins with a curl inside the head, which can close it."""
    width, curl = rng.uniform(0.4, 0.7), rng.uniform(0.1, 0.3)
    start = (width * rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.38))
    head = [start, (curl / 3, 0.12 + curl), (0, 0.18), (width * 0.45, 0), (width, 0.24)]
    if rng.random() < 0.5:
        tail = [(width * 0.6, 0.6), (0.1, 0.95), (0, 0.9), (0.1, 0.83), (width * 1.1, 1)]
        return [curve(rng, *head, *tail)]
    down = curve(rng, *head, (width * 0.6, 0.62), (0, 1))
    return [_join(down, line(rng, (0, 1), (width * rng.uniform(0.9, 1.3), rng.normal(1, 0.04))))]


# ---- 3 ----------------------------------------------------------------------------------------


def _three(rng: Rng) -> list[Points]:
    width, middle = rng.uniform(0.4, 0.65), rng.uniform(0.4, 0.5)
    waist = rng.uniform(0.1, 0.5) * width
    upper = [(0, 0.13), (width * 0.5, 0), (width * 0.9, 0.2), (waist, middle)]
    lower = [(width, 0.72), (width * 0.45, 1), (-0.05, rng.uniform(0.78, 0.92))]
    return [_join(curve(rng, *upper), curve(rng, (waist, middle), *lower))]


def _flat_three(rng: Rng) -> list[Points]:
    """Return a 3 with a straight top, and a corner instead of the upper bowl."""
    width, middle = rng.uniform(0.4, 0.65), rng.uniform(0.35, 0.48)
    top = line(rng, (0, rng.normal(0.02, 0.03)), (width, 0), (width * 0.35, middle))
    bowl = curve(rng, (width * 0.35, middle), (width, 0.68), (width * 0.5, 1), (-0.05, 0.87))
    return [_join(top, bowl)]


def _curled_three(rng: Rng) -> list[Points]:
    """Return a 3 with a small loop at the waist, and curls at both ends."""
    width, loop, curl = rng.uniform(0.45, 0.7), rng.uniform(0.05, 0.16), rng.uniform(0, 0.15)
    return [
        curve(
            rng,
            (curl, 0.2 + curl / 2),
            (0, 0.12),
            (width * 0.5, 0),
            (width * 0.9, 0.22),
            (width * 0.45, 0.45),
            (width * 0.45 - loop, 0.45 + loop / 3),
            (width * 0.45, 0.45 + loop / 2),
            (width, 0.72),
            (width * 0.45, 1),
            (-0.05, 0.85),
            (curl - 0.05, 0.85 - curl / 2),
        )
    ]


# ---- 4 ----------------------------------------------------------------------------------------


def _open_four(rng: Rng) -> list[Points]:
    """Return an angle, straight or round, and a stem, which may differ in height."""
    bar, stem_x = rng.uniform(0.45, 0.7), rng.uniform(0.3, 0.6)
    left = stem_x * rng.uniform(0, 0.35)
    end = stem_x + rng.uniform(-0.02, 0.3)
    top = rng.uniform(-0.1, 0.35)
    if rng.random() < 0.6:
        angle = line(rng, (left, rng.uniform(0, 0.1)), (0, bar), (end, bar + rng.normal(0, 0.04)))
    else:
        angle = curve(rng, (left, 0), (0, bar * 0.75), (stem_x * 0.4, bar), (end, bar * 0.9))
    stem = line(rng, (stem_x + rng.normal(0, 0.04), top), (stem_x + rng.normal(-0.03, 0.06), 1))
    return [angle, stem]


def _four_in_one_stroke(rng: Rng) -> list[Points]:
    """Return a 4 for which the pen goes down, right, up and down without being lifted."""
    bar, x = rng.uniform(0.45, 0.65), rng.uniform(0.35, 0.6)
    top = rng.uniform(-0.05, 0.3)
    return [line(rng, (rng.uniform(0, 0.2), 0), (0, bar), (x, bar), (x + 0.02, top), (x, 1))]


def _closed_four(rng: Rng) -> list[Points]:
    """Return a triangle, and a stem that the bar may cross."""
    bar, x = rng.uniform(0.5, 0.75), rng.uniform(0.35, 0.6)
    end = x + rng.uniform(-0.03, 0.35)
    slant = rng.normal(0, 0.05)
    if rng.random() < 0.5:
        return [line(rng, (x + slant, 0), (0, bar), (end, bar)), line(rng, (x + slant, 0), (x, 1))]
    return [line(rng, (end, bar), (0, bar), (x + slant, 0), (x, 1))]


# ---- 5 ----------------------------------------------------------------------------------------


def _bowl(rng: Rng, width: float) -> list[tuple[float, float]]:
    """Return the lower part of a 5, which may end near its start."""
    low = [(width * 0.55, 0.38), (width, 0.68), (width * 0.5, 1)]
    if rng.random() < 0.75:
        return [*low, (-0.05, rng.uniform(0.8, 0.95))]
    return [*low, (0, 0.85), (rng.uniform(0, 0.1), rng.uniform(0.5, 0.75))]


def _five(rng: Rng) -> list[Points]:
    """Return a stem and a bowl in one stroke, and a top, which may be detached."""
    width, x = rng.uniform(0.4, 0.65), rng.uniform(0, 0.15)
    y = rng.uniform(0.36, 0.5)
    body = _join(line(rng, (x, 0), (0, y)), curve(rng, (0, y), *_bowl(rng, width)))
    begin, lift = x + rng.uniform(-0.12, 0.15), rng.uniform(-0.1, 0.05)
    top = line(rng, (begin, lift), (begin + rng.uniform(0.3, 0.7), lift + rng.normal(-0.02, 0.05)))
    return [body, top]


def _five_in_one_stroke(rng: Rng) -> list[Points]:
    """Return a stroke from the right end of the top, like an S or with corners."""
    width, y = rng.uniform(0.4, 0.65), rng.uniform(0.36, 0.48)
    top = (width * rng.uniform(0.7, 1.3), rng.normal(0, 0.04))
    if rng.random() < 0.5:
        return [curve(rng, top, (width * 0.4, 0.02), (0, 0.2), (0.06, y), *_bowl(rng, width))]
    return [_join(line(rng, top, (0.08, 0), (0, y)), curve(rng, (0, y), *_bowl(rng, width)))]


# ---- 6 ----------------------------------------------------------------------------------------


def _six(rng: Rng) -> list[Points]:
    """Return a stem, straight or hooked at its top, and a bowl that closes or nearly does."""
    width, bowl = rng.uniform(0.4, 0.7), rng.uniform(0.35, 0.6)  # bowl: its height
    top = [(width * rng.uniform(0.3, 0.9), 0.0)]
    if rng.random() < 0.4:
        top.insert(0, (top[0][0] + rng.uniform(0.08, 0.25), rng.uniform(0.03, 0.22)))
    close = rng.uniform(-0.05, 0.25) * width
    middle = 1 - bowl / 2
    ring = [(width * 0.4, 1), (width, middle), (width * 0.5, 1 - bowl), (close, middle + 0.05)]
    return [curve(rng, *top, (width * 0.12, 0.38), (0, 0.75), *ring)]


# ---- 7 ----------------------------------------------------------------------------------------


def _seven(rng: Rng) -> list[Points]:
    """Return a top and a stem, straight or bent; a hook at the left and a bar are optional."""
    width, foot = rng.uniform(0.4, 0.75), rng.uniform(-0.05, 0.4)
    rise = rng.normal(0, 0.05)
    hook = [(rng.normal(0, 0.04), rng.uniform(0.1, 0.4))] if rng.random() < 0.4 else []
    top = line(rng, *hook, (0, rise), (width, 0))
    x = foot * width
    if rng.random() < 0.5:
        stem = line(rng, (width, 0), (x, 1))
    else:
        bend = ((width + x) / 2 + rng.uniform(-0.15, 0.05), 0.5)
        stem = curve(rng, (width, 0), bend, (x, 1))
    strokes = [_join(top, stem)]
    if rng.random() < 0.65:
        return strokes
    y, left, right = rng.uniform(0.38, 0.62), *rng.uniform(0.1, 0.32, 2)
    middle = width + (x - width) * y
    return [*strokes, line(rng, (middle - left, y), (middle + right, y + rng.normal(0, 0.05)))]


def _korean_seven(rng: Rng) -> list[Points]:
    """Return a 7 with a long hook down at the left of a narrow top, and a steep stem."""
    width, hook = rng.uniform(0.3, 0.55), rng.uniform(0.18, 0.5)
    left = rng.normal(0, 0.05)
    x = width * rng.uniform(0.4, 1)
    return [line(rng, (left, hook), (0, rng.normal(0, 0.03)), (width, 0), (x, 1))]


# ---- 8 ----------------------------------------------------------------------------------------


def _eight(rng: Rng) -> list[Points]:
    """Return one stroke that crosses itself; its ends meet, overlap or stay apart."""
    upper, lower = rng.uniform(0.32, 0.6), rng.uniform(0.35, 0.65)  # widths
    waist = rng.uniform(0.4, 0.52)
    gap = rng.uniform(-0.1, 0.16)
    start = (upper / 2 + gap, 0.08 + abs(gap) / 2)
    end = (upper / 2 - gap * rng.uniform(0, 1), 0.1)
    return [
        curve(
            rng,
            start,
            (0, 0),
            (-upper / 2, waist / 2),
            (0, waist),
            (lower / 2, (1 + waist) / 2),
            (0, 1),
            (-lower / 2, (1 + waist) / 2),
            (0, waist),
            end,
        )
    ]


def _two_rings(rng: Rng) -> list[Points]:
    waist = rng.uniform(0.4, 0.52)
    upper, lower = rng.uniform(0.15, 0.28), rng.uniform(0.18, 0.32)
    return [
        oval(rng, 0, waist / 2, upper, waist / 2, 90, 90 + rng.uniform(340, 380)),
        oval(rng, rng.normal(0, 0.03), (1 + waist) / 2, lower, (1 - waist) / 2, -90, -430),
    ]


# ---- 9 ----------------------------------------------------------------------------------------


def _tail(rng: Rng, x: float) -> list[tuple[float, float]]:
    """Return a stem: straight down, leaning, or curled to the left."""
    kind = rng.random()
    if kind < 0.4:
        return [(x + rng.normal(-0.03, 0.08), 1)]
    if kind < 0.6:
        return [(x - 0.08, 0.8), (x - rng.uniform(0.15, 0.4), 1)]
    return [
        (x, 0.8),
        (x * rng.uniform(0.3, 0.7), 1),
        (rng.uniform(-0.15, 0.1), rng.uniform(0.75, 0.95)),
    ]


def _nine(rng: Rng) -> list[Points]:
    """Return a bowl from its upper right, which closes or stays open there, and a tail."""
    width, bowl = rng.uniform(0.35, 0.6), rng.uniform(0.32, 0.55)
    begin = (width * rng.uniform(0.75, 1.05), rng.uniform(0, 0.16))
    ring = [begin, (width * 0.5, 0), (0, bowl * 0.5), (width * 0.45, bowl), (width, bowl * 0.4)]
    if rng.random() < 0.5:
        return [curve(rng, *ring, *_tail(rng, width))]
    top = (width + rng.normal(0, 0.03), rng.uniform(-0.05, 0.1))
    return [_join(curve(rng, *ring), curve(rng, top, *_tail(rng, width)))]


def _open_nine(rng: Rng) -> list[Points]:
    """Return a bowl that is open at the top, with the stem as its right side."""
    width, bowl = rng.uniform(0.35, 0.55), rng.uniform(0.4, 0.55)
    gap = rng.uniform(0.05, 0.3) * width
    bowl_points = [(width - gap, rng.uniform(0, 0.08)), (0.05, 0.05), (0, bowl * 0.6)]
    ring = curve(rng, *bowl_points, (width * 0.5, bowl), (width, bowl * 0.7))
    return [_join(ring, curve(rng, (width, rng.uniform(-0.02, 0.1)), *_tail(rng, width)))]


SHAPES: tuple[tuple[Shape, ...], ...] = (
    (_zero, _zero_with_curl, _slashed_zero, _slashed_zero, _dotted_zero),
    (
        _one,
        _one_with_upstroke,
        _one_with_upstroke,
        _one_with_upstroke,
        _one_with_foot,
        _one_with_tail,
    ),
    (_two, _two_with_loop, _two_with_closed_head),
    (_three, _flat_three, _curled_three),
    (_open_four, _open_four, _four_in_one_stroke, _closed_four),
    (_five, _five_in_one_stroke),
    (_six,),
    (_seven, _seven, _korean_seven),
    (_eight, _eight, _two_rings),
    (_nine, _nine, _open_nine),
)  # by digit; a shape that is named twice is drawn twice as often
DIGIT_SHARES = np.array((1, 2.5, 1, 1, 1, 1, 1, 1.5, 1, 1)) / 12  # 1 and 7 are hard to tell apart


def draw_shapes(count: int, rng: Rng) -> list[Drawing]:
    """Return random digits in random shapes, without a writer."""
    digits = rng.choice(10, size=count, p=DIGIT_SHARES).tolist()
    return [Drawing(digit, "", draw_shape(digit, rng)) for digit in digits]


def draw_shape(digit: int, rng: Rng) -> list[Points]:
    """Return the strokes of a digit in one of its shapes."""
    shapes = SHAPES[digit]
    return shapes[int(rng.integers(len(shapes)))](rng)
