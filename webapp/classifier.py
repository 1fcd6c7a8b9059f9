"""The model that serves: digits.onnx, run by onnxruntime, with the card it carries."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from webapp.errors import StartError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH = "digits.onnx"
# What training and serving agree on: name, type and shape, None being the batch.
INPUT = ("pixels", "tensor(uint8)", (None, 28, 28))
OUTPUT = ("probabilities", "tensor(float)", (None, 10))


@dataclass(frozen=True)
class Answer:
    """What the model says of one digit."""

    predicted_digit: int
    confidence: float
    probabilities: list[float]
    uncertain: bool


class Classifier:
    """A loaded model; `classify` may be called from several threads at once.

    To be made after the process has forked: a session does not survive it.
    """

    def __init__(self, folder: Path) -> None:
        """Load the graph in `folder`. Raises StartError where it is missing or unfit."""
        path = folder / GRAPH
        if not path.is_file():
            raise StartError(
                f"There is no model at {path}. Make one with `make model`, "
                f"or set MODEL_DIR to the folder that has {GRAPH}."
            )
        self._session = _open_session(path)
        self._check_contract(path)
        self.card = self._read_card(path)
        self.version = str(self.card["version"])
        self._doubt_below = float(self.card["doubt_below"])

    def classify(self, pixels: NDArray[np.uint8]) -> Answer:
        """Read one prepared digit, uint8 [28, 28]."""
        (batch,) = self._session.run(None, {INPUT[0]: pixels[np.newaxis]})
        probabilities = [round(float(value), 6) for value in batch[0]]
        confidence = max(probabilities)
        digit = probabilities.index(confidence)
        return Answer(digit, confidence, probabilities, confidence < self._doubt_below)

    def _check_contract(self, path: Path) -> None:
        sides = (self._session.get_inputs(), INPUT), (self._session.get_outputs(), OUTPUT)
        for found, expected in sides:
            have = [(node.name, node.type, _shape(node.shape)) for node in found]
            if have != [expected]:
                raise _unfit(path, f"it should have {[expected]}, but has {have}")

    def _read_card(self, path: Path) -> dict[str, Any]:
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            card: dict[str, Any] = json.loads(metadata["card"])
            _ = card["version"], float(card["doubt_below"])
        except (KeyError, ValueError, TypeError) as exc:
            raise _unfit(path, "its metadata has no card with version and doubt_below") from exc
        return card


def _open_session(path: Path) -> "InferenceSession":
    # Not before the fork: its library has threads from its import on, and a worker that inherits
    # it without them dies on the way out.
    import onnxruntime as ort

    # A worker is one of several; the default takes all of the host's cores, and spins on them.
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what it would print of a bad file, the error says
    try:
        return ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors share no narrower class
        raise _unfit(path, "it is no ONNX graph that can be run") from exc


def _shape(dimensions: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in dimensions)


def _unfit(path: Path, why: str) -> StartError:
    return StartError(f"{path} does not fit: {why}. Export it again: python -m export RUN.")
