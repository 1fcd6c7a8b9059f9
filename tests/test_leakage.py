"""Held-out data never reach training, whichever command trains.

Training on data that differ only in their held-out part must give the same weights.
"""

import hashlib
import json
import struct
import sys
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from train import ablation, outliers
from train.__main__ import main as train
from train.data import OUTLIER, Digits, load
from train.drawings import Drawing, Pixels, parse_unipen, render_all
from train.outliers import make_test_outliers, make_train_outliers
from train.settings import Settings

TINY = Settings(
    epochs=1, batch_size=1000, width=2, augmentations_per_drawing=1, outliers_per_epoch=40
)
LAST_5000, ALL, NONE = slice(-5000, None), slice(None), slice(0)
VAL_WRITERS, TEST_WRITERS = {25, 26, 27}, {28, 29, 30}


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


def parse(text: str) -> list[Drawing]:
    """Return the drawings of UNIPEN text."""
    return parse_unipen(text.splitlines())


def write_data(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    writers: Collection[int] = (),
    train: slice = NONE,
    test: slice = NONE,
) -> list[str]:
    """Write small data sets with alterations; return the options that make a command use them."""
    write_mnist(folder, train, test)
    (folder / "strokes").write_text(unipen(writers))
    published = hashlib.sha256((folder / "strokes").read_bytes()).hexdigest()
    monkeypatch.setattr("train.drawings.SHA256", published)
    return ["--data", str(folder), "--drawings", str(folder / "strokes")]


def are_equal(one: Digits, other: Digits) -> bool:
    """Return whether two sets have the same images and labels."""
    return torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)


def run_training(folder: Path, monkeypatch: pytest.MonkeyPatch, **altered: Any) -> dict[str, Any]:
    """Return the weights that `python -m train` saves."""
    options = [*write_data(folder, monkeypatch, **altered), "--runs", str(folder)]
    for name, value in asdict(TINY).items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    monkeypatch.setattr("train.data.TEST_OUTLIERS", 4)
    monkeypatch.setattr(sys, "argv", ["train", *options])
    train()
    (file,) = folder.glob("*/checkpoint.pt")
    weights: dict[str, Any] = torch.load(file, weights_only=True)["state_dict"]
    return weights


def test_training_uses_no_held_out_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = {"writers": VAL_WRITERS | TEST_WRITERS, "train": LAST_5000, "test": ALL}
    weights = run_training(tmp_path / "1", monkeypatch)
    others = run_training(tmp_path / "2", monkeypatch, **held_out)
    assert all(torch.equal(values, others[name]) for name, values in weights.items())


def test_all_other_data_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path, monkeypatch)
    monkeypatch.setattr("train.data.TEST_OUTLIERS", 4)
    splits = load(tmp_path, tmp_path / "strokes", TINY)
    assert len(splits.train) == 10_100 - 5_000 + 24 + TINY.outliers_per_epoch
    assert [len(digits) for digits in splits.val.values()] == [5_000, 2 * 3]
    assert [len(digits) for digits in splits.test.values()] == [100, 3, 3, 3, 3]


def test_validation_uses_no_test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.TEST_OUTLIERS", 4)
    write_data(tmp_path / "1", monkeypatch)
    splits = load(tmp_path / "1", tmp_path / "1" / "strokes", TINY)
    write_data(tmp_path / "2", monkeypatch, writers=TEST_WRITERS, test=ALL)
    others = load(tmp_path / "2", tmp_path / "2" / "strokes", TINY)
    assert all(are_equal(part, others.val[name]) for name, part in splits.val.items())
    assert not any(are_equal(part, others.test[name]) for name, part in splits.test.items())


@pytest.mark.parametrize("fold", range(ablation.FOLDS))
def test_ablation_fold_does_not_train_on_what_it_evaluates(fold: int) -> None:
    numbers = torch.arange(10_200)
    digits = Digits(torch.zeros(10_200, 28, 28, dtype=torch.uint8), numbers)
    mnist = digits[:5_100], digits[5_100:10_100], digits[10_100:]
    drawings = [replace(drawing, digit=drawing.writer) for drawing in parse(unipen())]
    training_set, evaluated = ablation.split(mnist, drawings, TINY, fold)
    assert torch.equal(training_set.fixed.labels, numbers[:100])
    assert torch.equal(evaluated["MNIST"].labels, numbers[100:10_100])
    writers = {*training_set.synthetic[0].labels.tolist()} - {OUTLIER}
    assert {*evaluated["drawings"].labels.tolist()} == {*range(1, 28)} - writers != set()
    altered = parse(unipen({*range(1, 31)} - writers))
    others, _ = ablation.split(mnist, altered, TINY, fold)
    assert torch.equal(training_set.synthetic[0].pixels, others.synthetic[0].pixels)


def test_ablation_adds_the_error_rates_of_each_fold_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = write_data(tmp_path, monkeypatch)
    report = tmp_path / "ablations.json"
    earlier = {"MNIST": [0.02, 0.03], "drawings": [0.01, 0.015]}
    report.write_text(json.dumps({"width 48": earlier}))
    monkeypatch.setattr(ablation, "BASELINE", TINY)
    options += ["--report", str(tmp_path), "no label smoothing"]
    monkeypatch.setattr(sys, "argv", ["ablation", *options])
    ablation.main()
    error_rates = json.loads(report.read_text())
    assert error_rates["width 48"] == earlier
    assert [len(folds) for folds in error_rates["no label smoothing"].values()] == [2, 2]
    assert report.with_suffix(".png").is_file()


def draw_outliers() -> tuple[Pixels, Pixels]:
    """Return training outliers and test outliers."""
    training = make_train_outliers(parse(unipen()), TINY, seed=0)
    test = [renderer for kind in make_test_outliers(8).values() for renderer in kind]
    return render_all(training, ["photo"]), render_all(test, ["photo"])


def test_test_outliers_are_of_kinds_and_fonts_not_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not {*outliers.TRAIN_SCRIBBLES} & {*outliers.TEST_SCRIBBLES}
    assert not {*outliers.TRAIN_FONTS} & {*outliers.TEST_FONTS}
    training, test = draw_outliers()
    with monkeypatch.context() as patch:
        patch.setattr(outliers, "TRAIN_SCRIBBLES", outliers.TRAIN_SCRIBBLES[:1])
        patch.setattr(outliers, "TRAIN_FONTS", outliers.TRAIN_FONTS[:1])
        assert (draw_outliers()[1] == test).all()
    monkeypatch.setattr(outliers, "TEST_SCRIBBLES", outliers.TEST_SCRIBBLES[:1])
    monkeypatch.setattr(outliers, "TEST_FONTS", outliers.TEST_FONTS[:1])
    assert (draw_outliers()[0] == training).all()
