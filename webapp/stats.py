"""Statistics: how many predictions there are, and the accuracy of the labelled ones."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any

from webapp.prediction import DailyCount, LabelCount
from webapp.store import Counts

DAY = attrgetter("day")
Z = 1.96  # standard deviations: 5 % of a normal distribution lies outside


def summarize(counts: Counts) -> dict[str, Any]:
    """Return counts by digit, day and model version, accuracy and confusion."""
    daily, labelled = counts.daily, counts.labels
    confusion = [[0] * 10 for _ in range(10)]
    for count in labelled:
        confusion[count.true_digit][count.predicted_digit] += count.predictions
    as_of = datetime.fromtimestamp(counts.as_of, UTC)
    # A version that is labelled but not counted yet is newer than the count.
    since = {each.model_version: f"{as_of:%F}" for each in labelled}
    since |= {each.model_version: each.day for each in sorted(daily, key=DAY, reverse=True)}
    return {
        "predictions": _total(daily),
        "as_of": as_of.isoformat(timespec="seconds"),
        **_accuracy(labelled),
        "confusion": confusion,
        "digits": [
            {"digit": digit, "predictions": _total(c for c in daily if c.predicted_digit == digit)}
            | _accuracy(c for c in labelled if c.true_digit == digit)
            for digit in range(10)
        ],
        "model_versions": [
            {
                "model_version": version,
                "since": since[version],
                "predictions": _total(c for c in daily if c.model_version == version),
                "days": _by_day(c for c in daily if c.model_version == version),
            }
            | _accuracy(c for c in labelled if c.model_version == version)
            for version in sorted(since, key=lambda version: (since[version], version))
        ],
        "days": [{name: day[name] for name in ("day", "predictions")} for day in _by_day(daily)],
    }


def _by_day(daily: Iterable[DailyCount]) -> list[dict[str, Any]]:
    """Return counts by day; those of labels are as old as those of predictions."""
    days = []
    for day, counts in groupby(sorted(daily, key=DAY), DAY):
        total, labelled, correct = 0, 0, 0
        for each in counts:
            total += each.predictions
            labelled += each.predictions * (each.true_digit is not None)
            correct += each.predictions * (each.true_digit == each.predicted_digit)
        days.append({"day": day, "predictions": total, "labelled": labelled, "right": correct})
    return days


def _accuracy(labelled: Iterable[LabelCount]) -> dict[str, Any]:
    labelled = list(labelled)
    total = _total(labelled)
    correct = _total(count for count in labelled if count.true_digit == count.predicted_digit)
    return {
        "labelled": total,
        "right": correct,
        "accuracy": correct / total if total else None,
        "accuracy_interval": wilson(correct, total) if total else None,
    }


def _total(counts: Iterable[DailyCount | LabelCount]) -> int:
    return sum(count.predictions for count in counts)


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a proportion (Wilson 1927)."""
    share, weight = correct / total, Z**2 / total
    middle = (share + weight / 2) / (1 + weight)
    spread = Z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / total / 4)
    return max(0.0, middle - spread), min(1.0, middle + spread)
