"""Training, evaluation and the folder of a run, with a short run on few digits."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.conftest import ROOT, wait_until
from train import ablation
from train.__main__ import main as train
from train.augment import random_affine
from train.data import Digits, Splits, TrainingSet, draw_training_epochs, load_mnist
from train.drawings import (
    STYLES,
    TRAIN_CANVAS_PX,
    draw_strokes,
    draw_varied,
    render_all,
)
from train.fit import (
    TrainedModel,
    choose_device,
    choose_threshold,
    fit,
    fit_temperature,
    predict_logits,
    to_images,
)
from train.metrics import bootstrap_interval, evaluate, predict_probabilities
from train.outliers import make_test_outliers, make_train_outliers
from train.pictures import TRAIN_KINDS, make_pictures
from train.report import write_run
from train.settings import Settings
from train.shapes import draw_shape
from train.sources import (
    SOURCES,
    Drawing,
    digest,
    is_unfinished_four,
    parse_uji,
    parse_unipen,
    read_drawings,
)
from webapp.prediction import OUTLIER
from webapp.preprocess import prepare

CPU = torch.device("cpu")
SHORT = Settings(epochs=2, batch_size=64, width=8, seed=1)

UNIPEN = """
.SEGMENT DIGIT 0 ? "4"
.COMMENT 4 12 224
.PEN_DOWN
 10 90
 10 50
 60 50
.PEN_UP
.DT 100
.PEN_DOWN
 50 90
 50 10
.PEN_UP
.SEGMENT DIGIT 1 ? "1"
.COMMENT 1 28 225
.PEN_DOWN
 5 9
 5 -2
.PEN_UP
"""


UJI = """// a comment
WORD a trn_UJI_W03-01
  NUMSTROKES 1
  POINTS 1 # 9 9
WORD 7 trn_UJI_W03-01
  NUMSTROKES 2
  POINTS 2 # 1 2 3 4
  POINTS 1 # 5 6
WORD 8 tst_UJI_W41-01
  NUMSTROKES 1
  POINTS 1 # 7 8
"""
PENDIGITS = SOURCES[0]


@pytest.fixture(scope="module")
def splits(mnist: Path) -> Splits:
    """Return a few MNIST digits and letters."""
    train, val, test = load_mnist(mnist)
    letters = make_test_outliers(300)["letters"]
    pixels = torch.from_numpy(render_all(letters, ["white-on-black"], TRAIN_CANVAS_PX)[:, 0])
    outliers = Digits(pixels, torch.full((300,), OUTLIER))
    return Splits(
        train=TrainingSet(train[:3000], [lambda: outliers]),
        val={"MNIST": val[:1000]},
        test={"MNIST": test[:1000]},
        ood={"letters": outliers},
    )


@pytest.fixture(scope="module")
def model(splits: Splits) -> TrainedModel:
    """Return a model trained for a few seconds."""
    return fit(splits.train, splits.val, SHORT, CPU)


@pytest.fixture(scope="module")
def run(splits: Splits, model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_run(folder, model, splits, SHORT)
    return folder


def test_unipen_is_parsed_with_y_pointing_down() -> None:
    four, one = parse_unipen(UNIPEN, "pendigits")
    assert (four.digit, four.writer, len(four.strokes)) == (4, "pendigits 12", 2)
    assert four.strokes[1].tolist() == [[50, -90], [50, -10]]
    assert (one.digit, one.writer) == (1, "pendigits 28")
    assert one.strokes[0].tolist() == [[5, -9], [5, 2]]


def test_digits_of_uji_are_parsed() -> None:
    (seven,) = parse_uji(UJI, "uji")
    assert (seven.digit, seven.writer) == (7, "uji 3")
    assert [stroke.tolist() for stroke in seven.strokes] == [[[1, 2], [3, 4]], [[5, 6]]]


def test_file_with_other_drawings_is_rejected(tmp_path: Path) -> None:
    (tmp_path / PENDIGITS.file).write_text(UNIPEN)
    with pytest.raises(ValueError, match="does not have the published drawings"):
        read_drawings(tmp_path)


def test_other_line_endings_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = replace(PENDIGITS, sha256=digest(parse_unipen(UNIPEN, PENDIGITS.name)))
    monkeypatch.setattr("train.sources.SOURCES", [published])
    (tmp_path / PENDIGITS.file).write_bytes(UNIPEN.replace("\n", "\r\n").encode())
    assert len(read_drawings(tmp_path)) == 2


def use_source(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one file of pen strokes the only one, and download it from a URL."""
    monkeypatch.setattr("train.sources.SOURCES", [replace(PENDIGITS, url=url)])


def test_missing_drawings_are_downloaded_unpacked_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed = base64.b64decode("H52QYeaAgFNHDJs0c9CUIQM=")  # by compress(1)
    with zipfile.ZipFile(tmp_path / "81.zip", "w") as archive:
        archive.writestr(f"{PENDIGITS.file}.Z", compressed)
    use_source((tmp_path / "81.zip").as_uri(), monkeypatch)
    with pytest.raises(ValueError, match="does not have the published drawings"):
        read_drawings(tmp_path / "data")
    assert (tmp_path / "data" / PENDIGITS.file).read_text() == "as published"


@pytest.mark.parametrize("answer", [b"<html>Not found</html>", b"PK", None])
def test_source_without_the_drawings_is_named_and_can_be_left_out(
    tmp_path: Path, answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer:
        (tmp_path / "81.zip").write_bytes(answer)
    use_source((tmp_path / "81.zip").as_uri(), monkeypatch)
    with pytest.raises(
        ValueError, match=r"from file:.*81\.zip: .+ Train without it with --without"
    ):
        read_drawings(tmp_path)
    assert not (tmp_path / PENDIGITS.file).exists()
    assert read_drawings(tmp_path, without=[PENDIGITS.file]) == []


def test_download_that_breaks_off_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        use_source(f"http://127.0.0.1:{listener.getsockname()[1]}", monkeypatch)
        server = threading.Thread(target=break_off, args=(listener,))
        server.start()
        with pytest.raises(ValueError, match="cannot be downloaded"):
            read_drawings(tmp_path)
        server.join()


def break_off(listener: socket.socket) -> None:
    """Send less than announced to the first client."""
    with listener.accept()[0] as connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nPK")


@pytest.mark.parametrize("command", [train, ablation.main])
def test_files_that_are_not_those_of_mnist_are_reported(
    command: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{part}-ubyte").write_text("<html>Not found</html>")
    monkeypatch.setattr(sys, "argv", ["train", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"be loaded: the files in .* are not those of MNIST"):
        command()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--epochs", "0", "epochs should be greater than 0, but is 0"),
        ("--batch-size", "-1", "batch_size should be greater than 0, but is -1"),
        ("--learning-rate", "nan", "learning_rate should be greater than 0, but is nan"),
        ("--outliers-per-epoch", "-1", "outliers_per_epoch should be 0 or greater, but is -1"),
        ("--device", "toaster", "the device toaster cannot be used"),
        ("--labelled", "/nowhere.npz", "there is no file /nowhere.npz"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(
    option: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--data", "/nowhere", option, value])
    with pytest.raises(SystemExit):
        train()
    assert message in capsys.readouterr().err


def test_published_drawings_are_complete(drawings: list[Drawing]) -> None:
    sources = Counter(drawing.writer.split()[0] for drawing in drawings)
    assert sources == {"pendigits": 7494, "pendigits-test": 3498, "uji": 800}
    assert len({drawing.writer for drawing in drawings}) == 30 + 14 + 40
    assert all(drawing.strokes for drawing in drawings)
    assert sum(map(is_unfinished_four, drawings)) == 14


def test_former_setting_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAWINGS_FILE", "/data/pendigits-orig.tra")
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit):
        train()
    assert "DRAWINGS_FILE has been replaced by DRAWINGS_DIR" in capsys.readouterr().err


def draw_nothing(rng: np.random.Generator, canvas_px: int) -> Image.Image:
    """Return a black canvas."""
    return Image.new("L", (canvas_px, canvas_px))


def test_picture_in_which_nothing_is_found_is_an_outlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.make_pictures", lambda *_: ([draw_nothing], [3]))
    settings = Settings(epochs=1, shapes_per_epoch=0, outliers_per_epoch=0)
    digits = draw_training_epochs([], settings)[0]()
    assert digits.labels.tolist() == [OUTLIER]


def test_crossed_out_digits_are_trained_as_outliers(drawings: list[Drawing]) -> None:
    sevens = [drawing for drawing in drawings if drawing.digit == 7]
    labels = np.array(make_pictures(sevens, TRAIN_KINDS, 0.2, 1_000, seed=0)[1])
    assert {*labels} == {7, OUTLIER}
    assert np.mean(labels == OUTLIER) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("digit", range(10))
def test_shapes_are_digits_in_a_box_about_1_high(digit: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        points = np.concatenate(draw_shape(digit, rng))
        width, height = np.ptp(points, axis=0)
        assert 0.8 < height < 1.7
        assert width < 1.5


RENDER = """
from tests.pictures import draw_slowly
from train.drawings import render_all
render_all([draw_slowly] * 1000, ["white-on-black"], 28)
"""


def test_processes_that_draw_end_with_a_training_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "processes"
    environ = os.environ | {"DRAWING_PROCESSES": str(file)}
    training = subprocess.Popen([sys.executable, "-c", RENDER], cwd=ROOT, env=environ)
    wait_until(lambda: file.exists() and len(file.read_text().split()) > 2)
    training.kill()
    training.wait()
    processes = {int(pid) for pid in file.read_text().split()}
    wait_until(lambda: not any(map(is_running, processes)))


def is_running(pid: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_rendering_repeats_for_a_seed_and_differs_between_styles() -> None:
    drawings = parse_unipen(UNIPEN, "pendigits")
    renderers = [partial(draw_varied, drawing.strokes, 0.03) for drawing in drawings]
    pixels = render_all(renderers, list(STYLES), seed=3)
    assert pixels.shape == (2, len(STYLES), 28, 28)
    assert (np.count_nonzero(pixels, axis=(2, 3)) > 15).all()
    assert (pixels == render_all(renderers, list(STYLES), seed=3)).all()
    assert (pixels[0, 0] != pixels[0, 1]).any()


def test_every_outlier_has_ink_in_every_style() -> None:
    rng = np.random.default_rng(0)
    drawings = parse_unipen(UNIPEN, "pendigits")
    outliers = make_train_outliers(drawings, replace(SHORT, outliers_per_epoch=20), seed=0)
    for kind in make_test_outliers(8).values():
        outliers += kind
    for renderer in outliers:
        ink = renderer(rng, TRAIN_CANVAS_PX)
        for apply_style in STYLES.values():
            assert prepare(apply_style(ink, rng)).max() == 255


def test_random_affine_is_mild_and_differs_between_images() -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 1, 28, 28)
    image[..., 9:19, 9:19] = 1
    distorted = random_affine(image.expand(8, -1, -1, -1))
    assert distorted.shape == (8, 1, 28, 28)
    assert torch.allclose(distorted.sum(dim=(1, 2, 3)), torch.tensor(100.0), rtol=0.3)
    assert (distorted[0] != distorted[1]).any()


def test_random_affine_grows_with_its_strength(splits: Splits) -> None:
    images = to_images(splits.val["MNIST"].pixels[:50])
    moved = []
    for strength in (0, 0.5, 1, 2):
        torch.manual_seed(0)
        moved.append(float((random_affine(images, strength) - images).abs().mean()))
    assert moved[0] == pytest.approx(0, abs=1e-5)
    assert moved == sorted(set(moved))


def test_affine_strength_takes_effect_in_training(splits: Splits) -> None:
    few = TrainingSet(splits.train.fixed[:256])
    settings = replace(SHORT, epochs=1)
    losses = {
        fit(few, splits.val, replace(settings, affine_strength=strength), CPU).epochs[0].loss
        for strength in (0.0, 1.0)
    }
    assert len(losses) == 2


def test_learning_rate_rises_and_decays_to_almost_nothing(splits: Splits) -> None:
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    fit(TrainingSet(splits.train.fixed[:600]), splits.val, SHORT, CPU)
    hook.remove()
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(SHORT.learning_rate, rel=0.1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < peak < len(rates) / 2
    assert rates[-1] < SHORT.learning_rate / 1000


def test_short_run_learns(splits: Splits, model: TrainedModel) -> None:
    first, last = model.epochs
    assert last.loss < first.loss
    assert last.val_accuracy["MNIST"] > 0.9


def test_outliers_get_low_confidence(splits: Splits, model: TrainedModel) -> None:
    confidence = {
        name: torch.softmax(predict_logits(model.network, part), dim=1).amax(dim=1).mean()
        for name, part in (splits.ood | splits.test).items()
    }
    assert confidence["letters"] < 0.4 < 0.8 < confidence["MNIST"]


def test_epochs_cycle_through_the_synthetic_data(splits: Splits) -> None:
    digits = splits.train.fixed
    training_set = TrainingSet(digits[:2], [lambda: digits[2:3], lambda: digits[3:5]])
    assert [len(training_set.epoch(number)) for number in (0, 1, 2)] == [3, 4, 3]


def test_run_is_reproducible(splits: Splits) -> None:
    few = TrainingSet(splits.train.fixed[:256])
    one, other = (fit(few, splits.val, replace(SHORT, epochs=1), CPU) for _ in range(2))
    assert one.epochs[0].loss == other.epochs[0].loss


def test_temperature_scaling_finds_the_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator).squeeze()
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, abs=0.1)


def test_confidence_threshold_makes_few_correct_answers_uncertain(
    splits: Splits, model: TrainedModel
) -> None:
    digits = splits.val["MNIST"]
    probabilities, labels = predict_probabilities(model, digits), digits.labels.numpy()
    metrics = evaluate(probabilities, labels, model.confidence_threshold)
    assert metrics["uncertain_correct_rate"] == pytest.approx(0.012, abs=0.002)


def test_few_digits_do_not_decide_the_confidence_threshold(
    splits: Splits, model: TrainedModel
) -> None:
    digits = splits.val["MNIST"]
    confidences, predicted = torch.from_numpy(predict_probabilities(model, digits)).max(dim=1)
    least_certain = (confidences + (predicted != digits.labels)).argsort()[:100]
    few = Digits(digits.pixels[least_certain], digits.labels[least_certain])
    again = fit(splits.train, splits.val | {"few": few}, SHORT, CPU)
    thresholds = [
        choose_threshold(predict_logits(again.network, part) / again.temperature, part.labels)
        for part in (digits, few)
    ]
    assert thresholds[1] < thresholds[0] == pytest.approx(again.confidence_threshold)


def test_metrics_are_computed_from_the_predictions() -> None:
    probabilities = np.full((4, 10), 0.02, np.float32)
    probabilities[range(4), [1, 2, 3, 4]] = 0.82
    metrics = evaluate(probabilities, np.array([1, 2, 3, 9]), confidence_threshold=0.9)
    assert (metrics["accuracy"], metrics["rejection_rate"]) == (0.75, 1)
    assert (metrics["confident_error_rate"], metrics["uncertain_correct_rate"]) == (0, 1)
    assert metrics["ece"] == pytest.approx(0.07, abs=1e-6)
    assert metrics["confusion"][9][4] == 1


def test_interval_is_taken_over_writers() -> None:
    right = np.array([True] * 90 + [False] * 10)
    by_one_writer_each = bootstrap_interval(right, [str(i) for i in range(100)])
    assert by_one_writer_each == pytest.approx([0.84, 0.95], abs=0.02)
    assert bootstrap_interval(right, ["a"] * 50 + ["b"] * 50) == [0.8, 1.0]
    assert bootstrap_interval(right, ["a"] * 100) == [0.9, 0.9]


def test_device_defaults_to_the_fastest() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device().type in {"cpu", "cuda", "mps"}


def test_run_folder_has_checkpoint_metrics_and_plots(run: Path) -> None:
    names = {"checkpoint.pt", "metrics.json", "curves.png", "confusions.png"}
    assert {file.name for file in run.iterdir()} == names | {"reliability.png", "mistakes.png"}
    metrics = json.loads((run / "metrics.json").read_text())
    assert [epoch["number"] for epoch in metrics["epochs"]] == [1, 2]
    assert metrics["settings"]["seed"] == SHORT.seed
    assert metrics["test"]["MNIST"]["accuracy"] > 0.9
    assert set(metrics["ood_rejection_rate"]) == {"letters"}
    compared = torch.load(run / "checkpoint.pt", weights_only=True)["test"]  # by export
    assert compared.keys() == {"MNIST", "letters"}


def test_strokes_are_not_connected() -> None:
    strokes = [np.array([[0.0, 0.0], [0.0, 9.0]]), np.array([[9.0, 0.0], [9.0, 9.0]])]
    (pixels,) = render_all([partial(draw_strokes, strokes)], ["white-on-black"])[0]
    assert not pixels[:, 13:15].any()
