"""The model that serves: digits.onnx, run by onnxruntime, with the card it carries."""

import hashlib
import json
import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from webapp import metrics
from webapp.errors import NotReady, StartError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH = "digits.onnx"
# What training and serving agree on: name, type and shape, None being the batch.
INPUT = ("pixels", "tensor(uint8)", (None, 28, 28))
OUTPUT = ("probabilities", "tensor(float)", (None, 10))
WATCH_S = 1  # from one look for another graph to the next

log = logging.getLogger("webapp")


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

    def __init__(self, path: Path) -> None:
        """Load a graph. Raises StartError where it is missing or unfit."""
        try:
            self.graph = path.read_bytes()
        except OSError as exc:
            raise StartError(
                f"There is no model at {path} ({exc.strerror}). Make one with `make model`, "
                f"or set MODEL_DIR to the folder that has {GRAPH}."
            ) from exc
        self._session = _open_session(path, self.graph)
        self._check_contract(path)
        self.card = self._read_card(path)
        self.version = str(self.card["version"])
        self._doubt_below = float(self.card["doubt_below"])
        if (found := _version_of(self.graph)) != self.version:
            raise _unfit(path, f"its card is of version {self.version}, but it is {found}")
        try:
            is_sane = self.answers()
        except Exception as exc:  # onnxruntime's errors have no narrower class in common
            raise _unfit(path, "it cannot be run") from exc
        if not is_sane:
            raise _unfit(path, "it does not read an upright stroke as a 1")

    def classify(self, pixels: NDArray[np.uint8]) -> Answer:
        """Read one prepared digit, uint8 [28, 28]."""
        (batch,) = self._session.run(None, {INPUT[0]: pixels[np.newaxis]})
        probabilities = [round(float(value), 6) for value in batch[0]]
        confidence = max(probabilities)
        digit = probabilities.index(confidence)
        return Answer(digit, confidence, probabilities, confidence < self._doubt_below)

    def answers(self) -> bool:
        """Return whether it reads a known digit."""
        stroke = np.zeros((28, 28), np.uint8)
        stroke[4:24, 13:16] = 255
        return self.classify(stroke).predicted_digit == 1

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


class Served:
    """The classifier that serves, until another graph is put in its place.

    What is put there and does not fit is refused, and the old one goes on. A copy of the one that
    serves is kept, for workers that start meanwhile.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        """Load the graph in `folder`, or the copy. Raises StartError where neither fits."""
        self._path, self._kept = folder / GRAPH, kept
        self._seen, self._refused = self._mark(), ""
        try:
            self.classifier = Classifier(self._path)
            self._keep()
        except StartError as error:
            self._refuse(error)
            self.classifier = Classifier(kept)
        metrics.MODELS.labels(self.classifier.version).inc()
        threading.Thread(target=self._watch_forever, daemon=True).start()

    def check(self) -> str:
        """Tell how the model is. Raises NotReady where it does not answer."""
        if not self.classifier.answers():
            raise NotReady(f"Version {self.classifier.version} does not read a known digit.")
        return self._refused or "answers"

    def _watch_forever(self) -> None:
        while True:
            time.sleep(WATCH_S)
            if (mark := self._mark()) != self._seen:
                self._seen = mark
                self._replace()

    def _replace(self) -> None:
        before = self.classifier.version
        try:
            self.classifier = Classifier(self._path)
        except StartError as error:
            self._refuse(error)
            return
        self._refused = ""
        self._keep()
        metrics.MODELS.labels(before).dec()
        metrics.MODELS.labels(self.classifier.version).inc()
        log.info("version %s serves in place of %s", self.classifier.version, before)

    def _refuse(self, error: StartError) -> None:
        self._refused = f"another was refused: {error}"
        log.error("The model goes on serving; %s", self._refused)

    def _keep(self) -> None:
        draft = self._kept.with_suffix(f".{os.getpid()}")
        with suppress(OSError):  # a full disk is no reason not to serve
            draft.write_bytes(self.classifier.graph)
            draft.replace(self._kept)

    def _mark(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns


def _version_of(graph: bytes) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of an ONNX graph without its metadata.

    Metadata are the fields of number 14 of a ModelProto (onnx.proto), whose other fields are
    numbers or have their length before them (Protocol Buffers, Encoding).
    """
    rest, at = hashlib.sha256(), 0
    while at < len(graph):
        begin = at
        key, at = _varint(graph, at)
        value, at = _varint(graph, at)
        if key & 7 == 2:
            at += value
        if key >> 3 != 14:
            rest.update(graph[begin:at])
    return rest.hexdigest()[:12]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and where it ends."""
    end = at
    while message[end] & 128:
        end += 1
    bits = (byte & 127 for byte in message[at : end + 1])
    return sum(value << 7 * place for place, value in enumerate(bits)), end + 1


def _open_session(path: Path, graph: bytes) -> "InferenceSession":
    # Not before the fork: its library has threads from its import on, and a worker that inherits
    # it without them dies on the way out.
    import onnxruntime as ort

    # A worker is one of several; the default takes all of the host's cores, and spins on them.
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what it would print of a bad file, the error says
    try:
        return ort.InferenceSession(graph, options, ["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors share no narrower class
        raise _unfit(path, "it is no ONNX graph that can be run") from exc


def _shape(dimensions: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in dimensions)


def _unfit(path: Path, why: str) -> StartError:
    return StartError(f"{path} does not fit: {why}. Export it again: python -m export RUN.")
