"""The comparison of a new model with the published one, on synthetic answers."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.gate import ModelPredictions, as_markdown, compare, holm, mcnemar, objections
from webapp.prediction import OUTLIER

STYLES = ("drawings, photo", "drawings, transparent")
LABELS = {
    "MNIST": np.arange(10_000) % 10,
    **dict.fromkeys(STYLES, np.arange(750) % 10),
    "shapes": np.arange(500) % 10,
    "scribbles": np.full(1_000, OUTLIER),
}
ERRORS = {
    "MNIST": np.arange(50),
    **dict.fromkeys(STYLES, np.arange(8)),
    "shapes": np.arange(5),
    "scribbles": np.arange(40),
}

Errors = dict[str, NDArray[np.int64]]


def answers(errors: Errors, confidence: float = 0.9) -> ModelPredictions:
    """Return a model's answers, with errors at these places of each test set."""
    probabilities = {}
    for name, labels in LABELS.items():
        is_error = np.isin(np.arange(len(labels)), errors[name])
        answer = (labels + is_error) % 10
        known = np.where(labels == OUTLIER, is_error, True)
        height = np.where(known, confidence, 0.2)[:, None]
        probabilities[name] = np.full((len(labels), 10), (1 - height) / 9)
        probabilities[name][np.arange(len(labels)), answer] = height[:, 0]
    return ModelPredictions(probabilities, threshold=0.5)


def compared(**errors: Any) -> list[dict[str, Any]]:
    """Compare a model, some of whose errors are different, with one that has ERRORS."""
    return compare(LABELS, answers(ERRORS), answers(ERRORS | errors))


def part(parts: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return one part of a comparison."""
    return next(part for part in parts if part["part"] == name)


def test_mcnemar_test_is_exact_and_two_sided() -> None:
    assert mcnemar(0, 6) == mcnemar(6, 0) == 2 / 64
    assert mcnemar(1, 3) == 0.625
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1
    assert mcnemar(0, 2_000) == pytest.approx(0)


def test_holm_multiplies_the_smallest_p_value_most() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]


def test_equal_model_is_not_better() -> None:
    assert objections(compared()) == ["no part is better"]


def test_better_model_is_published() -> None:
    assert objections(compared(MNIST=np.arange(30))) == []


def test_gain_that_chance_explains_is_not_better() -> None:
    assert objections(compared(MNIST=np.arange(45))) == ["no part is better"]


def test_model_with_permuted_labels_is_worse_in_every_part_of_digits() -> None:
    wrong = {name: np.arange(len(labels)) for name, labels in LABELS.items()}
    worse = {"MNIST", "drawings", "shapes", *(f"digit {digit}" for digit in range(10))}
    found = objections(compared(**wrong | {"scribbles": ERRORS["scribbles"]}))
    assert set(found) == {f"{name} is worse" for name in worse}


def test_synthetic_digits_count_only_as_a_part_of_their_own() -> None:
    parts = compared(shapes=np.arange(200))
    assert objections(parts) == ["shapes is worse"]
    assert [part["lost"] for part in parts if part["part"].startswith("digit")] == 10 * [0]


def test_half_a_point_less_on_one_digit_outweighs_better_parts() -> None:
    parts = compared(MNIST=sevens(5 + 6))  # 0.5 points of 1,150; all other digits are better
    assert part(parts, "MNIST")["result"] == "better"
    assert objections(parts) == ["digit 7 is worse"]


def test_loss_on_one_digit_that_chance_explains_is_no_objection() -> None:
    assert objections(compared(MNIST=sevens(5 + 5))) == []


def test_loss_below_the_bound_is_no_objection() -> None:
    lost = np.arange(50, 76)  # p < 0.05, but 0.26 points
    parts = compared(MNIST=np.append(np.arange(40), lost))
    assert part(parts, "MNIST")["p"] < 0.05
    assert objections(parts) == ["no part is better"]


def sevens(count: int) -> NDArray[np.int64]:
    """Return the places of the first sevens in MNIST, of which ERRORS has 5."""
    return np.flatnonzero(LABELS["MNIST"] == 7)[:count]


def test_outliers_with_high_confidence_are_worse() -> None:
    parts = compared(MNIST=np.arange(20), scribbles=np.arange(91))
    assert part(parts, "scribbles")["confident_errors"] == [40, 91]
    assert objections(parts) == ["scribbles is worse"]
    assert objections(compared(MNIST=np.arange(20), scribbles=np.arange(90))) == []


def test_drawing_in_several_styles_counts_once() -> None:
    drawings = part(compared(**dict.fromkeys(STYLES, np.arange(11))), "drawings")
    assert (drawings["digits"], drawings["correct"]) == (1500, [1484, 1478])
    assert (drawings["lost"], drawings["gained"]) == (3, 0)


def test_uncertain_answers_and_calibration_are_compared() -> None:
    parts = compare(LABELS, answers(ERRORS), answers(ERRORS, confidence=0.4))
    assert part(parts, "MNIST")["uncertain_correct"] == [0, 9950]
    assert part(parts, "MNIST")["confident_errors"] == [50, 0]
    assert part(parts, "MNIST")["ece"] == pytest.approx([0.095, 0.595])


def test_at_most_one_in_20_models_of_equal_quality_is_worse() -> None:
    rng = np.random.default_rng(0)
    # Each model misreads half of these. Two of them differ as much as two that were trained: in 34
    # of MNIST's digits, and in 28 of 4,233 drawings.
    difficult = {"MNIST": 68, STYLES[0]: 10, "shapes": 10, "scribbles": 80}

    def model() -> ModelPredictions:
        errors = {name: np.flatnonzero(rng.random(n) < 0.5) for name, n in difficult.items()}
        return answers(errors | {STYLES[1]: errors[STYLES[0]]})

    found = [objections(compare(LABELS, model(), model())) for _ in range(100)]
    assert sum("worse" in str(reasons) for reasons in found) <= 5


def test_document_names_the_reason_and_shows_every_part() -> None:
    parts = compared(MNIST=np.arange(80))
    comparison = {"challenger": "new", "champion": "old", "forced": False, "parts": parts}
    text = as_markdown(comparison | {"objections": objections(parts)})
    assert "compared with old\n\nNot published: MNIST is worse" in text
    assert all(f"| {part['part']} |" in text for part in parts)
    assert "| MNIST | 10,000 | 99.50% → 99.20% | 50 → 80 | 0 → 0 |" in text
    first = {"challenger": "new", "champion": None}
    assert as_markdown(first).endswith("There was no model to compare it with.\n")
