"""The record as files: a table for people, a data set for training."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from webapp.preprocess import FIELD
from webapp.record import Record
from webapp.storage import Filters

CHUNK = 64 * 1024  # characters of CSV at a time
COLUMNS = (
    "id",
    "created_at",
    "predicted_digit",
    "confidence",
    "uncertain",
    "true_digit",
    "labelled_by",
    "labelled_at",
    "model_version",
)


def csv_chunks(record: Record, filters: Filters) -> Iterator[str]:
    """Return the predictions that the filters choose as CSV, newest first, a piece at a time."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, *(f"probability_{digit}" for digit in range(10))])
    for prediction in record.all(filters):
        values = [getattr(prediction, column) for column in COLUMNS]
        writer.writerow([*values, *prediction.probabilities])
        if text.tell() > CHUNK:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def save_data_set(path: Path, record: Record, filters: Filters) -> int:
    """Write what is labelled as a NumPy archive; return how many digits it has.

    images: uint8 [n, 28, 28], ink 255 on 0; labels: int64 [n]; labelled_by and ids: strings [n].
    """
    labelled = [each for each in record.all(filters) if each.true_digit is not None]
    pixels = b"".join(each.pixels for each in labelled)
    np.savez_compressed(
        path,
        images=np.frombuffer(pixels, np.uint8).reshape(-1, FIELD, FIELD),
        labels=np.array([each.true_digit for each in labelled], np.int64),
        labelled_by=np.array([each.labelled_by or "" for each in labelled], str),
        ids=np.array([each.id for each in labelled], str),
    )
    return len(labelled)
