"""Export: what of a run reaches artifacts/, and how the graph there answers."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.__main__ import main as export
from export.card import install, over_seeds
from export.graph import make_graph
from tests.conftest import ROOT
from train import report
from train.data import Digits, Lessons, Parts, load_mnist
from train.fit import Fitted, fit, logits_of
from train.model import Network
from train.settings import Settings
from webapp.classifier import Classifier

SHORT = Settings(epochs=2, batch=64, channels=16, seed=1)
TEMPERATURE, DOUBT_BELOW = 2.0, 0.6


@pytest.fixture(scope="module")
def digits(mnist: Path) -> Digits:
    """Return the test digits of a short run."""
    return load_mnist(mnist)[2][:1000]


@pytest.fixture(scope="module")
def fitted(mnist: Path) -> Fitted:
    """Return a network taught for a few seconds, its confidences halfway to doubt."""
    teach, choose, _ = load_mnist(mnist)
    fitted = fit(Lessons(teach[:3000]), {"MNIST": choose[:100]}, SHORT, torch.device("cpu"))
    return replace(fitted, temperature=TEMPERATURE, doubt_below=DOUBT_BELOW)


@pytest.fixture(scope="module")
def run(fitted: Fitted, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that a run leaves."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    parts = Parts(Lessons(digits), {"MNIST": digits}, {"MNIST": digits}, {})
    report.write(folder, fitted, parts, SHORT)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the run was exported to."""
    folder = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", str(run), "--artifacts", str(folder)])
        export()
    return folder


def test_exported_run_is_served_as_it_was_measured(exported: Path, digits: Digits) -> None:
    classifier = Classifier(exported / "digits.onnx")
    card = json.loads((exported / "model.json").read_text())
    assert classifier.card == card
    assert classifier.version == card["version"]
    answers = [classifier.classify(pixels).predicted_digit for pixels in digits.pixels.numpy()]
    right = np.mean(np.array(answers) == digits.labels.numpy())
    assert right == pytest.approx(card["figures"]["MNIST"]["accuracy"], abs=0.001)
    assert card["seeds"]["MNIST"]["each"] == {"1": card["figures"]["MNIST"]["accuracy"]}
    assert not list(exported.rglob(".*"))  # no drafts


def test_temperature_takes_effect_in_the_graph(
    exported: Path, fitted: Fitted, digits: Digits
) -> None:
    classifier = Classifier(exported / "digits.onnx")
    answers = [classifier.classify(pixels).probabilities for pixels in digits[:20].pixels.numpy()]
    logits = logits_of(fitted.network, digits[:20])
    np.testing.assert_allclose(answers, torch.softmax(logits / TEMPERATURE, dim=1), atol=1e-5)
    assert classifier.card["temperature"] == TEMPERATURE


def test_threshold_takes_effect_in_the_card(exported: Path, digits: Digits) -> None:
    classifier = Classifier(exported / "digits.onnx")
    answers = [classifier.classify(pixels) for pixels in digits.pixels.numpy()]
    assert {answer.uncertain for answer in answers} == {False, True}
    assert all(answer.uncertain == (answer.confidence < DOUBT_BELOW) for answer in answers)


def test_pictures_of_the_run_are_published(exported: Path, run: Path) -> None:
    published = {file.name: file.read_bytes() for file in (exported / "report").iterdir()}
    assert published.pop("seeds.png").startswith(b"\x89PNG")
    assert published == {file.name: file.read_bytes() for file in run.glob("*.png")}


@pytest.mark.parametrize("folder", ["exported", "shipped"])
def test_graph_has_no_path_of_the_machine_that_built_it(
    folder: str, request: pytest.FixtureRequest
) -> None:
    artifacts = ROOT / "artifacts" if folder == "shipped" else request.getfixturevalue(folder)
    graph = (artifacts / "digits.onnx").read_bytes()
    for path in (str(ROOT), str(Path.home()), "site-packages", ".py"):
        assert path.encode() not in graph


def publish(exported: Path, run: Path, folder: Path, **changes: str) -> bytes:
    """Publish the exported graph with changes to its card; return the graph that serves now."""
    graph = onnx.load(exported / "digits.onnx")
    del graph.metadata_props[:]
    card = json.loads((exported / "model.json").read_text())
    install(graph, card | changes, run, folder)
    return (folder / "digits.onnx").read_bytes()


def test_previous_model_is_kept_once_another_is_published(
    exported: Path, run: Path, tmp_path: Path
) -> None:
    first = publish(exported, run, tmp_path, version="first")
    assert not (tmp_path / "previous").exists()
    publish(exported, run, tmp_path, version="second")
    publish(exported, run, tmp_path, version="second")
    publish(exported, run, tmp_path, version="second", how="with more seeds")
    assert (tmp_path / "previous" / "digits.onnx").read_bytes() == first
    assert json.loads((tmp_path / "previous" / "model.json").read_text())["version"] == "first"


def test_figures_over_seeds_are_of_like_runs_alone() -> None:
    def run(seed: int, accuracy: float, epochs: int = 9, digits: int = 5) -> dict[str, Any]:
        settings = {"seed": seed, "epochs": epochs}
        figures = {"MNIST": {"accuracy": accuracy}}
        return {"settings": settings, "data": {"teach": digits}, "figures": figures}

    shipped = run(0, 0.98)
    others = [run(0, 0.5), run(1, 0.96), run(2, 0.1, epochs=1), run(3, 0.1, digits=1)]
    seeds = over_seeds(shipped, [*others, shipped])["MNIST"]
    assert seeds["each"] == {"0": 0.98, "1": 0.96}
    assert (seeds["mean"], seeds["deviation"]) == pytest.approx((0.97, 0.01414), abs=1e-5)
    assert over_seeds(shipped, [])["MNIST"]["deviation"] is None


def test_graph_that_answers_otherwise_is_refused(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(16).eval()
    probe = digits.pixels[:10]
    monkeypatch.setattr("export.graph.AGREEMENT", 0.0)
    with pytest.raises(ValueError, match="differ by"):
        make_graph(network, 1.0, probe)


def test_absent_run_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "export", "--runs", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "There is no training run" in done.stderr
    assert not done.stdout
