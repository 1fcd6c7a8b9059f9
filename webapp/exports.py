"""Predictions as files: a CSV table for people, a data set for training."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from webapp.prediction import Prediction
from webapp.preprocess import IMAGE_PX

CHUNK_SIZE = 64 * 1024  # characters
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


def save_data_set(path: Path, predictions: Iterable[Prediction]) -> int:
    """Write the labelled predictions as a NumPy archive; return how many there are.

    images: uint8 [n, 28, 28], ink 255 on 0; labels: int64 [n]; labelled_by and ids: strings [n].
    """
    labelled = [each for each in predictions if each.true_digit is not None]
    pixels = b"".join(each.pixels for each in labelled)
    np.savez_compressed(
        path,
        images=np.frombuffer(pixels, np.uint8).reshape(-1, IMAGE_PX, IMAGE_PX),
        labels=np.array([each.true_digit for each in labelled], np.int64),
        labelled_by=np.array([each.labelled_by or "" for each in labelled], str),
        ids=np.array([each.id for each in labelled], str),
    )
    return len(labelled)
