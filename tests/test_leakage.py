"""What is held out never reaches training, whichever command trains.

The same training on data that differ in their held-out part alone has to give the same weights.
"""

import hashlib
import json
import struct
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from train import doubt, study
from train.__main__ import main as train
from train.data import NO_DIGIT, Digits, load
from train.doubt import no_digits, other_no_digits
from train.drawings import Drawing, Pixels, draw_all, parse_unipen
from train.settings import Settings

TINY = Settings(epochs=1, batch=1000, channels=2, copies=1, doubted=40)
LEAST = ["--epochs=1", "--batch=1000", "--channels=2", "--copies=1", "--doubted=40"]
LAST_5000, ALL, NONE = slice(-5000, None), slice(None), slice(0)
VALIDATION_WRITERS, TEST_WRITERS = {25, 26, 27}, {28, 29, 30}


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """Write an array in the format of MNIST's files."""
    header = struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


def write_mnist(folder: Path, train: slice, test: slice) -> None:
    """Write random digits as MNIST's files; those in the slices are altered."""
    (folder / "MNIST" / "raw").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count, altered in (("train", 10_100, train), ("t10k", 100, test)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.integers(0, 10, count, np.uint8)
        images[altered], labels[altered] = 255 - images[altered], 9 - labels[altered]
        write_idx(folder / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)


def unipen(altered: Collection[int] = ()) -> str:
    """Return UNIPEN text with a drawing by each of 30 writers; some of them drew another one."""
    lines = []
    for writer in range(1, 31):
        points = np.random.default_rng((writer, writer in altered)).integers(0, 300, (8, 2))
        lines += [f".COMMENT {writer % 10} {writer} 0", ".PEN_DOWN"]
        lines += [*(f"{x} {y}" for x, y in points), ".PEN_UP"]
    return "\n".join(lines)


def read(text: str) -> list[Drawing]:
    """Return the drawings of UNIPEN text."""
    return parse_unipen(text.splitlines())


def write_data(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    writers: Collection[int] = (),
    train: slice = NONE,
    test: slice = NONE,
) -> list[str]:
    """Write small data, altered as told; return the options that make a command use them."""
    write_mnist(folder, train, test)
    (folder / "strokes").write_text(unipen(writers))
    published = hashlib.sha256((folder / "strokes").read_bytes()).hexdigest()
    monkeypatch.setattr("train.drawings.SHA256", published)
    return ["--data", str(folder), "--drawings", str(folder / "strokes"), "--runs", str(folder)]


def are_equal(one: Digits, other: Digits) -> bool:
    """Return whether two sets have the same images and labels."""
    return torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)


def run_training(folder: Path, monkeypatch: pytest.MonkeyPatch, **altered: Any) -> dict[str, Any]:
    """Return the weights that `python -m train` leaves."""
    options = write_data(folder, monkeypatch, **altered)
    monkeypatch.setattr("train.data.OTHERS", 4)
    monkeypatch.setattr(sys, "argv", ["train", *options, *LEAST])
    train()
    (file,) = folder.glob("*/checkpoint.pt")
    weights: dict[str, Any] = torch.load(file, weights_only=True)["state_dict"]
    return weights


def test_training_uses_no_held_out_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = {"writers": VALIDATION_WRITERS | TEST_WRITERS, "train": LAST_5000, "test": ALL}
    weights = run_training(tmp_path / "1", monkeypatch)
    others = run_training(tmp_path / "2", monkeypatch, **held_out)
    assert all(torch.equal(values, others[name]) for name, values in weights.items())


def test_everything_else_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path, monkeypatch)
    monkeypatch.setattr("train.data.OTHERS", 4)
    parts = load(tmp_path, tmp_path / "strokes", TINY)
    assert len(parts.teach) == 10_100 - 5_000 + 24 * TINY.copies + TINY.doubted
    assert {name: len(part) for name, part in parts.choose.items()} == {
        "MNIST": 5000,
        "drawings": 6,
    }
    assert {len(part) for part in parts.report.values()} == {100, 3}


def test_validation_uses_no_test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.OTHERS", 4)
    write_data(tmp_path / "1", monkeypatch)
    parts = load(tmp_path / "1", tmp_path / "1" / "strokes", TINY)
    write_data(tmp_path / "2", monkeypatch, writers=TEST_WRITERS, test=ALL)
    others = load(tmp_path / "2", tmp_path / "2" / "strokes", TINY)
    assert all(are_equal(part, others.choose[name]) for name, part in parts.choose.items())
    assert not any(are_equal(part, others.report[name]) for name, part in parts.report.items())


@pytest.mark.parametrize("fold", range(study.FOLDS))
def test_ablation_fold_does_not_train_on_what_it_evaluates(fold: int) -> None:
    numbers = torch.arange(10_200)
    digits = Digits(torch.zeros(10_200, 28, 28, dtype=torch.uint8), numbers)
    mnist = digits[:5_100], digits[5_100:10_100], digits[10_100:]
    drawings = [replace(drawing, digit=drawing.writer) for drawing in read(unipen())]
    lessons, evaluated = study.split(mnist, drawings, TINY, fold)
    assert torch.equal(lessons.same.labels, numbers[:100])
    assert torch.equal(evaluated["MNIST"].labels, numbers[100:10_100])
    writers = {*lessons.fresh[0].labels.tolist()} - {NO_DIGIT}
    assert {*evaluated["drawings"].labels.tolist()} == {*range(1, 28)} - writers != set()
    altered = read(unipen({*range(1, 31)} - writers))
    others, _ = study.split(mnist, altered, TINY, fold)
    assert torch.equal(lessons.fresh[0].pixels, others.fresh[0].pixels)


def test_ablation_reports_an_error_rate_a_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = write_data(tmp_path, monkeypatch)
    monkeypatch.setattr(study, "BASE", TINY)
    monkeypatch.setattr(sys, "argv", ["study", *options, "--report", str(tmp_path), "hard labels"])
    study.main()
    shown = json.loads((tmp_path / "ablations.json").read_text())["hard labels"]
    assert {part: len(folds) for part, folds in shown.items()} == {"MNIST": 2, "drawings": 2}


def draw_outliers() -> tuple[Pixels, Pixels]:
    """Return outliers as they are used in training, and as they are reported."""
    teaching = no_digits(read(unipen()), TINY, seed=0)
    reported = [ink for kind in other_no_digits(8).values() for ink in kind]
    return draw_all(teaching, ["photo"]), draw_all(reported, ["photo"])


def test_reported_outliers_are_of_kinds_and_fonts_not_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not {*doubt.SCRIBBLES, *doubt.FONTS} & {*doubt.OTHER_SCRIBBLES, *doubt.OTHER_FONTS}
    teaching, reported = draw_outliers()
    with monkeypatch.context() as patch:
        patch.setattr(doubt, "SCRIBBLES", doubt.SCRIBBLES[:1])
        patch.setattr(doubt, "FONTS", doubt.FONTS[:1])
        assert (draw_outliers()[1] == reported).all()
    monkeypatch.setattr(doubt, "OTHER_SCRIBBLES", doubt.OTHER_SCRIBBLES[:1])
    monkeypatch.setattr(doubt, "OTHER_FONTS", doubt.OTHER_FONTS[:1])
    assert (draw_outliers()[0] == teaching).all()
