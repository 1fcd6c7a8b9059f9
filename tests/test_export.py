"""Export of a run to artifacts/, and the predictions of the exported graph."""

import json
import math
import shutil
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
from export.card import seed_statistics
from export.graph import ExportModule, make_graph, verify_parity
from export.run import compare_with_published, export_run
from export.versions import kept_versions, replace_model
from tests.conftest import ROOT
from tests.graphs import misreading
from train.data import Digits, Splits, TrainingSet, load_mnist
from train.fit import TrainedModel, fit, predict_logits
from train.model import Network
from train.report import write_run
from train.settings import Settings
from webapp.model import Model

SHORT = Settings(epochs=2, batch_size=64, width=8, seed=1)
TEMPERATURE, CONFIDENCE_THRESHOLD = 2.0, 0.6


@pytest.fixture(scope="module")
def digits(mnist: Path) -> Digits:
    """Return the test digits of a short run."""
    return load_mnist(mnist)[2][:1000]


@pytest.fixture(scope="module")
def model(mnist: Path) -> TrainedModel:
    """Return a model trained for a few seconds, with a temperature and threshold of its own."""
    train, val, _ = load_mnist(mnist)
    model = fit(TrainingSet(train[:2000]), {"MNIST": val[:500]}, SHORT, torch.device("cpu"))
    return replace(model, temperature=TEMPERATURE, confidence_threshold=CONFIDENCE_THRESHOLD)


@pytest.fixture(scope="module")
def run(model: TrainedModel, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    splits = Splits(TrainingSet(digits), {"MNIST": digits}, {"MNIST": digits}, {})
    write_run(folder, model, splits, SHORT)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the run was exported to, where it replaced a worse model."""
    folder = tmp_path_factory.mktemp("artifacts")
    worse = misreading()
    card = onnx.load_from_string(worse).metadata_props[0].value
    replace_model(folder, card.encode(), worse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", str(run), "--artifacts", str(folder)])
        export()
    return folder


def test_exported_run_is_served_as_it_was_measured(exported: Path, digits: Digits) -> None:
    model = Model(exported / "digits.onnx")
    card = json.loads((exported / "model.json").read_text())
    assert model.card == card
    assert model.version == card["version"]
    answers = [model.classify(pixels).predicted_digit for pixels in digits.pixels.numpy()]
    right = np.mean(np.array(answers) == digits.labels.numpy())
    accuracy = card["figures"]["MNIST"]["accuracy"]
    assert right == pytest.approx(accuracy, abs=0.001)
    assert card["seed_statistics"]["MNIST"]["accuracies"] == {"1": accuracy}
    assert not list(exported.rglob(".*"))  # no drafts


def test_temperature_takes_effect_in_the_graph(
    exported: Path, model: TrainedModel, digits: Digits
) -> None:
    served = Model(exported / "digits.onnx")
    answers = [served.classify(pixels).probabilities for pixels in digits[:20].pixels.numpy()]
    logits = predict_logits(model.network, digits[:20])
    np.testing.assert_allclose(answers, torch.softmax(logits / TEMPERATURE, dim=1), atol=1e-5)
    assert served.card["temperature"] == TEMPERATURE


def test_confidence_threshold_takes_effect_in_the_card(exported: Path, digits: Digits) -> None:
    served = Model(exported / "digits.onnx")
    answers = [served.classify(pixels) for pixels in digits.pixels.numpy()]
    assert {answer.uncertain for answer in answers} == {False, True}
    assert all(answer.uncertain == (answer.confidence < CONFIDENCE_THRESHOLD) for answer in answers)


def test_plots_of_the_run_are_published(exported: Path, run: Path) -> None:
    published = {file.name: file.read_bytes() for file in (exported / "report").iterdir()}
    assert published.pop("seeds.png").startswith(b"\x89PNG")
    files = [*run.glob("*.png"), run / "comparison.md"]
    assert published == {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("folder", ["exported", "shipped"])
def test_graph_has_no_path_of_the_machine_that_built_it(
    folder: str, request: pytest.FixtureRequest
) -> None:
    artifacts = ROOT / "artifacts" if folder == "shipped" else request.getfixturevalue(folder)
    graph = (artifacts / "digits.onnx").read_bytes()
    for path in (str(ROOT), str(Path.home()), "site-packages", ".py"):
        assert path.encode() not in graph


def test_replaced_model_is_kept_and_the_comparison_is_in_the_card(exported: Path) -> None:
    (kept,) = kept_versions(exported)
    comparison = Model(exported / "digits.onnx").card["comparison"]
    assert comparison["champion"] == kept.name
    assert (comparison["objections"], comparison["forced"]) == ([], False)
    assert {part["result"] for part in comparison["parts"]} == {"better"}


def test_run_that_is_not_better_is_only_published_by_force(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    with pytest.raises(SystemExit, match="3"):
        export_run(run, tmp_path, force=False)
    assert "Not published: no part is better." in capsys.readouterr().out
    assert Model(tmp_path / "digits.onnx").card == Model(exported / "digits.onnx").card
    export_run(run, tmp_path, force=True)
    comparison = Model(tmp_path / "digits.onnx").card["comparison"]
    assert (comparison["forced"], comparison["objections"]) == (True, ["no part is better"])
    report = (tmp_path / "report" / "comparison.md").read_text()
    assert "Published with --force, although no part is better." in report


def test_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("damaged")
    with pytest.raises(SystemExit, match=r"checkpoint\.pt is damaged"):
        export_run(tmp_path, tmp_path, force=False)


def test_first_model_is_published_and_one_that_cannot_be_run_is_reported(tmp_path: Path) -> None:
    comparison = compare_with_published(onnx.ModelProto(), {"version": "1"}, {}, tmp_path / "a")
    assert comparison["objections"] == []
    (tmp_path / "a").write_text("damaged")
    with pytest.raises(SystemExit, match="cannot be run"):
        compare_with_published(onnx.ModelProto(), {"version": "1"}, {}, tmp_path / "a")


def test_seed_statistics_only_use_runs_that_differ_in_their_seed() -> None:
    def run(seed: int, accuracy: float, epochs: int = 9, digits: int = 5) -> dict[str, Any]:
        settings = {"seed": seed, "epochs": epochs}
        test = {"MNIST": {"accuracy": accuracy}}
        return {"settings": settings, "data": {"train": digits}, "test": test}

    shipped = run(0, 0.98)
    others = [run(0, 0.5), run(1, 0.96), run(2, 0.1, epochs=1), run(3, 0.1, digits=1)]
    statistics = seed_statistics(shipped, [*others, shipped])["MNIST"]
    assert statistics["accuracies"] == {"0": 0.98, "1": 0.96}
    assert (statistics["mean"], statistics["std"]) == pytest.approx((0.97, 0.01414), abs=1e-5)
    assert seed_statistics(shipped, [])["MNIST"]["std"] is None


def test_graph_that_differs_from_the_network_is_rejected(digits: Digits) -> None:
    graph = onnx.load(ROOT / "artifacts" / "digits.onnx")
    with pytest.raises(ValueError, match="differ by"):
        verify_parity(graph, ExportModule(Network(16), 1.0).eval(), digits.pixels[:10])


def test_graph_that_answers_nan_is_rejected(digits: Digits) -> None:
    with pytest.raises(ValueError, match="differ by nan"):
        make_graph(Network(16).eval(), math.nan, digits.pixels[:10])


def test_missing_run_is_reported(tmp_path: Path) -> None:
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
