"""Predictions: what the model says, what is stored, how rows are identified and filtered."""

import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

OPERATOR, VISITOR = "operator", "visitor"  # who sets labels
ACCEPTED, REJECTED = "accepted", "rejected"  # reviews of labels
OUTLIER = -1  # in training, the label of an image that does not show one digit
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Classification:
    """What the model says about one digit."""

    predicted_digit: int
    confidence: float
    probabilities: list[float]
    doubt: str | None  # why the prediction should not be trusted, None if it should

    @property
    def uncertain(self) -> bool:
        """Whether the prediction should not be trusted."""
        return self.doubt is not None


@dataclass(frozen=True)
class Prediction:
    """One row: the classification, the model that made it, the visitor who asked, and the label."""

    id: str
    created_at: datetime
    predicted_digit: int
    confidence: float
    probabilities: list[float]
    uncertain: bool
    doubt: str | None
    model_version: str
    pixels: bytes  # 28 × 28, row by row, ink 255 on 0
    visitor: str
    idempotency_key: str | None = None  # SHA-256 of the client's key, in hexadecimal digits
    true_digit: int | None = None
    labelled_by: str | None = None  # OPERATOR or VISITOR, also of a label that was removed
    labelled_at: datetime | None = None
    label_revision: int = 0  # how often the label was set; unlike a clock, it never goes back
    review: str | None = None  # by the operator: ACCEPTED, or REJECTED if it is not a digit

    @property
    def has_operators_label(self) -> bool:
        """Whether only the operator may change the label."""
        return self.labelled_by == OPERATOR and (self.true_digit, self.review) != (None, None)


@dataclass(frozen=True)
class Filters:
    """Which predictions to list. None means any; `since` is inclusive, `until` exclusive."""

    digit: int | None = None
    labelled: bool | None = None
    correct: bool | None = None
    reviewed: bool | None = None
    model_version: str | None = None
    visitor: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Deletion:
    """Which predictions to delete: one, or all older than `before`, or those of one visitor.

    before: an id; smaller ids are older.
    """

    prediction_id: str | None = None
    before: str | None = None
    visitor: str | None = None  # with `before`: only this visitor's

    def covers(self, prediction: Prediction) -> bool:
        """Return whether it deletes a prediction."""
        if self.before is None:
            return prediction.id == self.prediction_id
        return prediction.id < self.before and self.visitor in (None, prediction.visitor)


class LabelCount(NamedTuple):
    """How many labelled predictions share a model version, a predicted digit and a label."""

    model_version: str
    predicted_digit: int
    true_digit: int
    predictions: int


class DailyCount(NamedTuple):
    """How many predictions share a day (UTC), a model version, a predicted digit and a label."""

    day: str
    model_version: str
    predicted_digit: int
    true_digit: int | None  # None: not labelled
    predictions: int


def new_prediction(
    classification: Classification,
    model_version: str,
    pixels: bytes,
    visitor: str,
    idempotency_key: str | None = None,
) -> Prediction:
    """Return a prediction made now; it is not stored yet."""
    now_ns = _now_ns()
    return Prediction(
        id=_uuid7(now_ns, secrets.randbits(62)),
        created_at=datetime.fromtimestamp(now_ns // 1_000_000 / 1000, UTC),
        predicted_digit=classification.predicted_digit,
        confidence=classification.confidence,
        probabilities=classification.probabilities,
        uncertain=classification.uncertain,
        doubt=classification.doubt,
        model_version=model_version,
        pixels=pixels,
        visitor=visitor,
        idempotency_key=idempotency_key,
    )


def first_id(time: datetime) -> str:
    """Return the smallest id that a prediction made at `time` can have."""
    time_ms = max(0, (time - EPOCH) // timedelta(milliseconds=1))  # exact, unlike a float
    return _uuid7(time_ms * 1_000_000, 0)


def last_id() -> str:
    """Return the largest id that a prediction made until now can have."""
    return _uuid7(_now_ns(), (1 << 62) - 1)


_last_ns = 0
_last_ns_lock = threading.Lock()


def _now_ns() -> int:
    """Return the time since 1970. It never decreases in a process, because it orders the ids."""
    global _last_ns
    with _last_ns_lock:
        _last_ns = max(time.time_ns(), _last_ns)
        return _last_ns


def _uuid7(time_ns: int, random_bits: int) -> str:
    """Return a UUID of version 7 (RFC 9562): the newest prediction has the largest id.

    48 bits of milliseconds, 12 bits of their fraction (section 6.2, method 3), 62 random bits.
    """
    time_ms, rest_ns = divmod(time_ns, 1_000_000)
    fraction = rest_ns * 4096 // 1_000_000
    return str(UUID(int=time_ms << 80 | 7 << 76 | fraction << 64 | 2 << 62 | random_bits))
