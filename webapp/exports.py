"""Predictions as files: a CSV table for people, or a data set for training."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from webapp.prediction import OPERATOR, OUTLIER, Prediction
from webapp.preprocess import IMAGE_PX

CHUNK_SIZE = 64 * 1024  # characters
CONTRADICTING_CONFIDENCE = 0.95  # in another digit; then a visitor's label is left out
COLUMNS = (
    "id",
    "created_at",
    "predicted_digit",
    "confidence",
    "uncertain",
    "doubt",
    "true_digit",
    "labelled_by",
    "labelled_at",
    "model_version",
)


def csv_chunks(predictions: Iterable[Prediction]) -> Iterator[str]:
    """Return predictions as CSV text, with a header, in chunks."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, *(f"probability_{digit}" for digit in range(10))])
    for prediction in predictions:
        values = [getattr(prediction, column) for column in COLUMNS]
        writer.writerow([*values, *prediction.probabilities])
        if text.tell() > CHUNK_SIZE:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def is_contradicted(prediction: Prediction) -> bool:
    """Return whether a visitor's label is probably wrong: the model was confident in another."""
    return (
        prediction.labelled_by != OPERATOR
        and prediction.true_digit != prediction.predicted_digit
        and prediction.confidence >= CONTRADICTING_CONFIDENCE
    )


def save_data_set(
    path: Path, predictions: Sequence[Prediction], pseudonym: Callable[[str], int]
) -> None:
    """Write labelled and rejected predictions as a NumPy archive.

    images: uint8 [n, 28, 28], ink 255 on 0; labels: int64 [n], OUTLIER for rejected ones; writer:
    int64 [n], the pseudonym of the visitor; labelled_at: datetime64 [n], in UTC; ids, labelled_by,
    review (empty without one): strings [n].
    """
    labels = [OUTLIER if row.true_digit is None else row.true_digit for row in predictions]
    times = [row.labelled_at and row.labelled_at.replace(tzinfo=None) for row in predictions]
    np.savez_compressed(
        path,
        images=np.frombuffer(b"".join(row.pixels for row in predictions), np.uint8).reshape(
            -1, IMAGE_PX, IMAGE_PX
        ),
        labels=np.array(labels, np.int64),
        ids=np.array([row.id for row in predictions], str),
        labelled_by=np.array([row.labelled_by or "" for row in predictions], str),
        writer=np.array([pseudonym(row.visitor) for row in predictions], np.int64),
        review=np.array([row.review or "" for row in predictions], str),
        labelled_at=np.array(times, "datetime64[ms]"),
    )
