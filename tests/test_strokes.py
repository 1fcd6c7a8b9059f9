"""How the points of a stroke become a picture."""

import numpy as np

from webapp.preprocess import prepare_with_doubt
from webapp.strokes import Stroke, draw_strokes


def drawn(*strokes: Stroke) -> np.ndarray:
    """Return the drawing as the model sees it, with signed numbers."""
    return prepare_with_doubt(draw_strokes(list(strokes)), is_drawing=True).pixels.astype(int)


def circle(points: int, width: float = 0.06) -> Stroke:
    """Return a circle whose points are equally spaced."""
    angles = np.linspace(0, 2 * np.pi, points)
    x, y = 0.5 + 0.3 * np.cos(angles), 0.5 + 0.3 * np.sin(angles)
    return np.column_stack((x, y, np.full(points, width)))


def test_few_points_are_joined_by_a_curve() -> None:
    assert np.abs(drawn(circle(13)) - drawn(circle(200))).mean() < 12


def test_points_of_one_line_do_not_change_it() -> None:
    line = np.linspace([0.2, 0.2, 0.06], [0.7, 0.8, 0.06], 5000)
    assert np.abs(drawn(line) - drawn(line[[0, -1]])).max() < 20


def test_stroke_of_one_point_is_a_disc() -> None:
    rows, columns = np.nonzero(drawn(np.array([[0.5, 0.5, 0.3]])))
    assert np.ptp(rows) == np.ptp(columns) == 19


def test_width_may_change_along_a_stroke() -> None:
    tapered = np.linspace([0.5, 0.2, 0.02], [0.5, 0.8, 0.2], 4)
    widths = np.count_nonzero(drawn(tapered) > 127, axis=1)
    assert widths[18] > widths[12] > widths[6] > 0
    assert (np.diff(widths[: widths.argmax()]) >= 0).all()


def test_strokes_are_drawn_apart() -> None:
    left, right = circle(40), circle(40)
    left[:, 0], right[:, 0] = left[:, 0] * 0.3, right[:, 0] * 0.3 + 0.6
    assert not drawn(left, right)[:, 13:15].any()
