"""The model: digits.onnx, run by onnxruntime, and replaced while the service runs."""

import json
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from webapp import metrics
from webapp.errors import NotReady, StartupError
from webapp.files import atomic_write
from webapp.graphs import GRAPH_FILE, version_of
from webapp.prediction import Classification

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# The contract between training and serving: name, type and shape; None is the batch.
INPUT = ("pixels", "tensor(uint8)", (None, 28, 28))
OUTPUT = ("probabilities", "tensor(float)", (None, 10))

log = logging.getLogger("webapp")


class Model:
    """A loaded graph. `classify` may be called from several threads at once.

    Create it after the process has forked: an onnxruntime session does not survive a fork.
    """

    def __init__(self, path: Path) -> None:
        """Load a graph. Raises StartupError if it is missing or invalid."""
        try:
            self.graph = path.read_bytes()
        except OSError as error:
            raise StartupError(
                f"There is no model at {path} ({error.strerror}). Create one with `make model`, "
                f"or set MODEL_DIR to the directory that contains {GRAPH_FILE}."
            ) from error
        self._session = _open_session(path, self.graph)
        self._check_contract(path)
        self.card = self._read_card(path)
        self.version = str(self.card["version"])
        self._confidence_threshold = float(self.card["doubt_below"])
        if (version := version_of(self.graph)) != self.version:
            raise _invalid_model(
                path, f"its model card is for version {self.version}, but the graph is {version}"
            )
        try:
            passed = self.self_test()
        except Exception as error:  # onnxruntime's errors have no common base class
            raise _invalid_model(path, "it cannot be run") from error
        if not passed:
            raise _invalid_model(path, "it does not classify a vertical line as 1")

    def classify(self, pixels: NDArray[np.uint8]) -> Classification:
        """Classify one prepared digit, uint8 [28, 28]."""
        (batch,) = self._session.run(None, {INPUT[0]: pixels[np.newaxis]})
        probabilities = [round(float(value), 6) for value in batch[0]]
        confidence = max(probabilities)
        doubt = "low_confidence" if confidence < self._confidence_threshold else None
        return Classification(probabilities.index(confidence), confidence, probabilities, doubt)

    def self_test(self) -> bool:
        """Return whether the model classifies a vertical line as 1."""
        pixels = np.zeros((28, 28), np.uint8)
        pixels[4:24, 13:16] = 255
        return self.classify(pixels).predicted_digit == 1

    def _check_contract(self, path: Path) -> None:
        sides = (self._session.get_inputs(), INPUT), (self._session.get_outputs(), OUTPUT)
        for nodes, expected in sides:
            found = [(node.name, node.type, _shape(node.shape)) for node in nodes]
            if found != [expected]:
                raise _invalid_model(path, f"it should have {[expected]}, but has {found}")

    def _read_card(self, path: Path) -> dict[str, Any]:
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            card: dict[str, Any] = json.loads(metadata["card"])
            _ = card["version"], float(card["doubt_below"])
        except (KeyError, ValueError, TypeError) as error:
            raise _invalid_model(
                path, "its metadata has no model card with version and doubt_below"
            ) from error
        return card


class HotReloadingModel:
    """The model in use, which is replaced when another graph replaces its file.

    An invalid graph is rejected, and the current model stays in use. A copy of that model is kept
    for workers that start in the meantime.
    """

    def __init__(self, model_dir: Path, fallback: Path) -> None:
        """Load nothing yet: the command line needs no model."""
        self._path, self._fallback = model_dir / GRAPH_FILE, fallback
        self._loading = threading.Lock()
        self._model: Model | None = None
        self._fingerprint: tuple[int, ...] = ()
        self._rejection = ""

    @property
    def current(self) -> Model:
        """The model in use. Raises StartupError if no valid graph is found."""
        return self._model or self.load()

    def load(self) -> Model:
        """Load the graph, or the fallback copy if it is invalid. Raises StartupError."""
        with self._loading:
            if self._model is None:
                self._fingerprint = self._read_fingerprint()
                try:
                    self._model = Model(self._path)
                    self._save_fallback(self._model)
                except StartupError as error:
                    self._reject(error)
                    self._model = Model(self._fallback)
                metrics.MODELS.labels(self._model.version).inc()
        return self._model

    def reload_if_changed(self) -> None:
        """Load the graph that has replaced the file, if it is valid."""
        fingerprint = self._read_fingerprint()
        if fingerprint == self._fingerprint:
            return
        self._fingerprint = fingerprint
        try:
            model = Model(self._path)
        except StartupError as error:
            self._reject(error)
            return
        self._save_fallback(model)
        previous, self._model, self._rejection = self.current.version, model, ""
        metrics.MODELS.labels(previous).dec()
        metrics.MODELS.labels(model.version).inc()
        log.info("model version %s replaces %s", model.version, previous)

    def status(self) -> str:
        """Return the state of the model. Raises NotReady if it does not answer as it should."""
        if not self.current.self_test():
            raise NotReady(f"Model version {self.current.version} fails its self-test.")
        return self._rejection or "answers"

    def _reject(self, error: StartupError) -> None:
        self._rejection = f"the model file was rejected: {error}"
        log.error("%s", self._rejection)

    def _save_fallback(self, model: Model) -> None:
        # A full disk must not stop the service.
        with suppress(OSError), atomic_write(self._fallback) as draft:
            draft.write_bytes(model.graph)

    def _read_fingerprint(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns


def _open_session(path: Path, graph: bytes) -> "InferenceSession":
    # Imported after the fork: onnxruntime starts threads when it is imported, and a worker that
    # inherits it without them crashes when it exits.
    import onnxruntime as ort

    # One thread per worker: by default, each would use all cores of the host, and spin on them.
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # the exception says what is wrong with a bad file
    try:
        return ort.InferenceSession(graph, options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise _invalid_model(path, "it is not an ONNX graph that can be run") from error


def _shape(dimensions: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in dimensions)


def _invalid_model(path: Path, reason: str) -> StartupError:
    return StartupError(
        f"{path} is not valid: {reason}. Run `make rollback`, or export a run again."
    )
