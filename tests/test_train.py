"""Training, and what is kept of it. A short run on few digits, for real."""

import base64
import json
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from train import report, study
from train.augment import distort
from train.data import NO_DIGIT, Digits, Lessons, Parts, load_mnist
from train.doubt import no_digits, other_no_digits
from train.drawings import LOOKS, SMALL, draw, draw_all, draw_otherwise, parse_unipen, read_drawings
from train.fit import Fitted, as_images, calibrate, choose_device, fit, logits_of
from train.model import Network, describe
from train.settings import Settings
from webapp.preprocess import prepare

CPU = torch.device("cpu")
SHORT = Settings(epochs=2, batch=64, channels=16, seed=1)

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


@pytest.fixture(scope="module")
def parts(mnist: Path) -> Parts:
    """Return a few of MNIST's digits."""
    teach, choose, test = load_mnist(mnist)
    inks = other_no_digits(300)["letters"]
    pixels = torch.from_numpy(draw_all(inks, ["white-on-black"], edge=SMALL)[:, 0])
    doubt = Digits(pixels, torch.full((300,), NO_DIGIT))
    lessons = Lessons(teach[:3000], [doubt])
    return Parts(lessons, {"MNIST": choose[:1000]}, {"MNIST": test[:1000]}, {"letters": doubt})


@pytest.fixture(scope="module")
def fitted(parts: Parts) -> Fitted:
    """Return a network taught for a few seconds."""
    return fit(parts.teach, parts.choose, SHORT, CPU)


@pytest.fixture(scope="module")
def run(parts: Parts, fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that a run leaves."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    report.write(folder, fitted, parts, SHORT)
    return folder


def test_unipen_is_read_with_y_turned_down() -> None:
    four, one = parse_unipen(UNIPEN.splitlines())
    assert (four.digit, four.writer, len(four.strokes)) == (4, 12, 2)
    assert four.strokes[1].tolist() == [[50, -90], [50, -10]]
    assert (one.digit, one.writer, one.strokes[0].tolist()) == (1, 28, [[5, -9], [5, 2]])


def test_wrong_file_of_drawings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "strokes"
    file.write_text(UNIPEN)
    with pytest.raises(ValueError, match="not the published"):
        read_drawings(file)


def test_missing_drawings_are_fetched_unpacked_and_checked(tmp_path: Path) -> None:
    compressed = base64.b64decode("H52QYeaAgFNHDJs0c9CUIQM=")  # by compress(1)
    with zipfile.ZipFile(tmp_path / "81.zip", "w") as archive:
        archive.writestr("pendigits-orig.tra.Z", compressed)
    file = tmp_path / "data" / "strokes"
    with pytest.raises(ValueError, match="not the published"):
        read_drawings(file, source=(tmp_path / "81.zip").as_uri())
    assert file.read_text() == "as published"


def test_published_drawings_are_read_whole(drawings_file: Path) -> None:
    drawings = read_drawings(drawings_file)
    assert len(drawings) == 7494
    assert {drawing.writer for drawing in drawings} == set(range(1, 31))
    assert all(drawing.strokes for drawing in drawings)


def test_drawings_repeat_for_a_seed_and_differ_between_looks() -> None:
    inks = [
        partial(draw_otherwise, 0.03, drawing.strokes)
        for drawing in parse_unipen(UNIPEN.splitlines())
    ]
    pixels = draw_all(inks, list(LOOKS), seed=3)
    assert pixels.shape == (2, len(LOOKS), 28, 28)
    assert (np.count_nonzero(pixels, axis=(2, 3)) > 15).all()
    assert (pixels == draw_all(inks, list(LOOKS), seed=3)).all()
    assert (pixels[0, 0] != pixels[0, 1]).any()


def test_all_that_is_drawn_leaves_ink_in_every_look() -> None:
    rng = np.random.default_rng(0)
    others = other_no_digits(8)
    inks = no_digits(parse_unipen(UNIPEN.splitlines()), replace(SHORT, doubted=20), seed=0)
    for ink in [*inks, *others["scribbles"], *others["letters"]]:
        drawn = ink(rng, SMALL)
        for look in LOOKS.values():
            assert prepare(look(drawn, rng)).max() == 255


def test_distortion_is_mild_and_differs_between_images() -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 1, 28, 28)
    image[..., 9:19, 9:19] = 1
    distorted = distort(image.expand(8, -1, -1, -1))
    assert distorted.shape == (8, 1, 28, 28)
    assert torch.allclose(distorted.sum(dim=(1, 2, 3)), torch.tensor(100.0), rtol=0.3)
    assert (distorted[0] != distorted[1]).any()


def test_distortion_grows_with_its_strength(parts: Parts) -> None:
    images = as_images(parts.choose["MNIST"].pixels[:50])
    moved = []
    for strength in (0, 0.5, 1, 2):
        torch.manual_seed(0)
        moved.append(float((distort(images, strength) - images).abs().mean()))
    assert moved[0] == pytest.approx(0, abs=1e-5)
    assert moved == sorted(set(moved))


def test_training_distorts_as_strongly_as_its_settings_say(parts: Parts) -> None:
    few = Lessons(parts.teach.same[:256])
    settings = replace(SHORT, epochs=1)
    losses = {
        fit(few, parts.choose, replace(settings, distortion=strength), CPU).epochs[0].loss
        for strength in (0.0, 1.0)
    }
    assert len(losses) == 2


def test_learning_rate_rises_and_ends_near_nothing(parts: Parts) -> None:
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    fit(Lessons(parts.teach.same[:600]), parts.choose, SHORT, CPU)
    hook.remove()
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(SHORT.learning_rate, rel=0.1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < peak < len(rates) / 2
    assert rates[-1] < SHORT.learning_rate / 1000


def test_description_counts_every_weight() -> None:
    network = Network(16)
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert describe(network).splitlines()[-1].split()[-1] == f"{weights:,}"


def test_short_run_learns(parts: Parts, fitted: Fitted) -> None:
    first, last = fitted.epochs
    assert last.loss < first.loss
    assert last.held_out["MNIST"] > 0.9


def test_network_has_no_idea_of_what_is_no_digit(parts: Parts, fitted: Fitted) -> None:
    sure = {
        name: torch.softmax(logits_of(fitted.network, part), dim=1).amax(dim=1).mean()
        for name, part in (parts.doubt | parts.report).items()
    }
    assert sure["letters"] < 0.4 < 0.8 < sure["MNIST"]


def test_epochs_have_their_own_drawings_in_turn(parts: Parts) -> None:
    digits = parts.teach.same
    lessons = Lessons(digits[:2], [digits[2:3], digits[3:5]])
    assert [len(lessons.epoch(number)) for number in (0, 1, 2)] == [3, 4, 3]


def test_run_repeats_for_a_seed(parts: Parts) -> None:
    few = Lessons(parts.teach.same[:256])
    one, other = (fit(few, parts.choose, replace(SHORT, epochs=1), CPU) for _ in range(2))
    assert one.epochs[0].loss == other.epochs[0].loss


def test_calibration_finds_the_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator).squeeze()
    assert calibrate(3 * logits, labels) == pytest.approx(3, abs=0.1)


def test_threshold_calls_few_validation_digits_uncertain(parts: Parts, fitted: Fitted) -> None:
    logits = logits_of(fitted.network, parts.choose["MNIST"])
    confidences = torch.softmax(logits / fitted.temperature, dim=1).amax(dim=1)
    uncertain = float((confidences < fitted.doubt_below).float().mean())
    assert uncertain == pytest.approx(0.005, abs=0.001)


def test_figures_are_those_of_the_answers() -> None:
    probabilities = np.full((4, 10), 0.02, np.float32)
    probabilities[range(4), [1, 2, 3, 4]] = 0.82
    figures = report.measure(probabilities, np.array([1, 2, 3, 9]), doubt_below=0.9)
    assert (figures["accuracy"], figures["uncertain"]) == (0.75, 1)
    assert figures["calibration_error"] == pytest.approx(0.07, abs=1e-6)
    assert figures["confusion"][9][4] == 1


def test_device_is_chosen_or_named() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device().type in {"cpu", "cuda", "mps"}


def test_run_leaves_checkpoint_figures_and_pictures(run: Path) -> None:
    names = {"checkpoint.pt", "metrics.json", "curves.png", "confusions.png"}
    assert {file.name for file in run.iterdir()} == names | {"reliability.png", "mistakes.png"}
    metrics = json.loads((run / "metrics.json").read_text())
    assert [epoch["number"] for epoch in metrics["epochs"]] == [1, 2]
    assert metrics["settings"]["seed"] == SHORT.seed
    assert metrics["figures"]["MNIST"]["accuracy"] > 0.9
    assert set(metrics["doubted"]) == {"letters"}


def test_drawing_keeps_its_strokes_apart() -> None:
    strokes = [np.array([[0.0, 0.0], [0.0, 9.0]]), np.array([[9.0, 0.0], [9.0, 9.0]])]
    (pixels,) = draw_all([partial(draw, strokes)], ["white-on-black"])[0]
    assert not pixels[:, 13:15].any()


def test_study_is_shown_as_far_as_it_has_run(tmp_path: Path) -> None:
    for variant, fold, wrong in (("hard labels", 0, 0.02), ("hard labels", 1, 0.03)):
        results = json.dumps({"MNIST": wrong, "drawings": wrong / 2})
        (tmp_path / f"{study.name_of(variant)}-{fold}.json").write_text(results)
    study.show(tmp_path, tmp_path)
    shown = json.loads((tmp_path / "ablations.json").read_text())
    assert shown == {"hard labels": {"MNIST": [0.02, 0.03], "drawings": [0.01, 0.015]}}
    assert (tmp_path / "ablations.png").is_file()
