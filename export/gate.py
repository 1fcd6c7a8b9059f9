"""Decide whether a new model (challenger) replaces the published one (champion).

Both classify the same test digits. Each part of them (a test set, a kind of outliers, a digit) is
compared with an exact McNemar test (McNemar 1947), corrected for the number of parts (Holm 1979).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.data import PICTURES_SET, SHAPES_SET
from train.metrics import Probabilities, calibration_error
from webapp.prediction import OUTLIER

SIGNIFICANCE_LEVEL = 0.05
MAX_LOSS = 0.003  # largest drop in a part's accuracy, if its own p-value is significant
OUTLIER_MARGIN = 0.05  # difference in rejection rate that equally good models may have
HEADINGS = [
    "part",
    "digits",
    "accuracy",
    "confident errors",
    "uncertain, correct",
    "calibration error",
    "lost / gained",
    "p",
    "p, corrected",
    "result",
]
RULE = (
    f"A part is better or worse if its corrected p is at most {SIGNIFICANCE_LEVEL:.0%} (exact "
    "McNemar test of the lost and gained drawings, Holm's correction). It is also worse if its "
    f"accuracy drops by more than {100 * MAX_LOSS} points and its own p is at most "
    f"{SIGNIFICANCE_LEVEL:.0%}. Outliers should be uncertain; a kind of them is better or worse "
    f"only if the difference exceeds {100 * OUTLIER_MARGIN:.0f} points as well. A model is "
    "published if no part is worse and at least one is better."
)

Labels = NDArray[np.int64]  # [n]


class ModelPredictions(NamedTuple):
    """A model's answers on each test set, and its confidence threshold."""

    probabilities: Mapping[str, Probabilities]
    threshold: float


def compare(
    labels: Mapping[str, Labels], champion: ModelPredictions, challenger: ModelPredictions
) -> list[dict[str, Any]]:
    """Return the comparison on each part; metrics are pairs of the champion and the challenger.

    Test sets like "drawings, photo" and "drawings, transparent" are one part: they show the same
    drawings in several styles. `lost` counts the drawings that the challenger reads correctly in
    fewer styles than the champion, `gained` those in more.
    """
    truth = np.concatenate([*labels.values()])  # [n]
    groups = [name.split(",")[0] for name in labels]
    sizes = [len(part) for part in labels.values()]
    group = np.repeat(groups, sizes)  # [n]
    drawing = np.concatenate(  # [n], the same number for the same drawing in another style
        [
            groups.index(name) * len(truth) + np.arange(size)
            for name, size in zip(groups, sizes, strict=True)
        ]
    )
    models = [
        (np.concatenate([model.probabilities[name] for name in labels]), model.threshold)
        for model in (champion, challenger)
    ]
    masks = {name: group == name for name in groups}
    is_synthetic = np.isin(group, (SHAPES_SET, PICTURES_SET))  # [n]
    digits = np.unique(truth[truth != OUTLIER])
    masks |= {f"digit {digit}": ~is_synthetic & (truth == digit) for digit in digits}
    parts = []
    for name, mask in masks.items():
        pair = [_measure(rows[mask], truth[mask], threshold) for rows, threshold in models]
        old, new = (model.pop("is_correct").astype(int) for model in pair)  # [digits of the part]
        _, number = np.unique(drawing[mask], return_inverse=True)
        changes = np.bincount(number, weights=new - old)  # [drawings of the part]
        lost, gained = int((changes < 0).sum()), int((changes > 0).sum())
        parts.append(
            {"part": name, "digits": int(mask.sum())}
            | {metric: [model[metric] for model in pair] for metric in pair[0]}
            | {"lost": lost, "gained": gained, "p": mcnemar(lost, gained)}
        )
    return _with_results(parts)


def mcnemar(lost: int, gained: int) -> float:
    """Return the p-value of the exact two-sided McNemar test."""
    total, fewer = lost + gained, min(lost, gained)
    tail = sum(math.comb(total, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << total))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def objections(parts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the reasons not to publish the challenger."""
    worse = [f"{part['part']} is worse" for part in parts if part["result"] == "worse"]
    is_better = any(part["result"] == "better" for part in parts)
    return worse if worse or is_better else ["no part is better"]


def _measure(probabilities: Probabilities, labels: Labels, threshold: float) -> dict[str, Any]:
    """Return the metrics of a part. An outlier is correct if its prediction is uncertain."""
    confidences = probabilities.max(axis=1)  # [n]
    is_uncertain = confidences < threshold  # [n]
    is_outlier = bool((labels == OUTLIER).all())
    is_correct = is_uncertain if is_outlier else probabilities.argmax(axis=1) == labels  # [n]
    return {
        "is_correct": is_correct,
        "correct": int(is_correct.sum()),
        "confident_errors": int((~is_correct & ~is_uncertain).sum()),
        "uncertain_correct": None if is_outlier else int((is_correct & is_uncertain).sum()),
        "ece": None if is_outlier else calibration_error(confidences, is_correct),
    }


def _with_results(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `p_holm` and `result`: "better", "worse" or "same"."""
    for part, p_holm in zip(parts, holm([part["p"] for part in parts]), strict=True):
        old, new = part["correct"]
        gain, is_outliers = (new - old) / part["digits"], part["ece"][0] is None
        is_significant = p_holm <= SIGNIFICANCE_LEVEL
        if is_outliers:
            is_significant &= abs(gain) > OUTLIER_MARGIN
        elif -gain > MAX_LOSS:
            is_significant |= part["p"] <= SIGNIFICANCE_LEVEL
        result = "worse" if part["lost"] > part["gained"] else "better"
        part |= {"p_holm": p_holm, "result": result if is_significant else "same"}
    return parts


def as_markdown(comparison: dict[str, Any]) -> str:
    """Return the comparison as a document: the decision, its rule, and a table of the parts."""
    challenger, champion = comparison["challenger"], comparison["champion"]
    if champion is None:
        return f"# Version {challenger}\n\nThere was no model to compare it with.\n"
    reasons = ", ".join(comparison["objections"])
    decision = "Published: at least one part is better and none is worse."
    if reasons:
        decision = f"Not published: {reasons}."
    if comparison["forced"]:
        decision = f"Published with --force, although {reasons}."
    rows = [HEADINGS, *(_cells(part) for part in comparison["parts"])]
    table = [f"| {' | '.join(row)} |" for row in rows]
    table.insert(1, "|---|" + "--:|" * (len(HEADINGS) - 2) + "---|")
    return "\n".join(
        [
            f"# Version {challenger}, compared with {champion}",
            "",
            decision,
            "",
            RULE,
            "",
            *table,
            "",
        ]
    )


def _cells(part: dict[str, Any]) -> list[str]:
    def pair(metric: str, text: str, scale: float = 1) -> str:
        if part[metric][0] is None:
            return "–"
        return " → ".join(text.format(value * scale) for value in part[metric])

    return [
        part["part"],
        f"{part['digits']:,}",
        pair("correct", "{:.2%}", 1 / part["digits"]),
        pair("confident_errors", "{:.0f}"),
        pair("uncertain_correct", "{:.0f}"),
        pair("ece", "{:.2%}"),
        f"{part['lost']} / {part['gained']}",
        f"{part['p']:.2g}",
        f"{part['p_holm']:.2g}",
        part["result"],
    ]
