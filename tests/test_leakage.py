"""Held-out data never reach training, whichever command trains.

Training on data that differ only in their held-out part must give the same weights.
"""

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

from train import ablation, outliers, symbols
from train.__main__ import main as train
from train.data import SOURCE_WEIGHTS, SYNTHETIC_EPOCHS, TEST_SEED, Digits, load
from train.drawings import Pixels, render_all
from train.outliers import make_test_outliers, make_train_outliers
from train.settings import Settings
from train.shapes import draw_shapes
from train.sources import SOURCES, Drawing, digest, parse_unipen
from webapp.prediction import OUTLIER

TINY = Settings(
    epochs=1,
    batch_size=1000,
    width=2,
    augmentations_per_drawing=1,
    shapes_per_epoch=10,
    pictures_per_epoch=3,
    outliers_per_epoch=20,
)
LAST_5000, ALL, NONE = slice(-5000, None), slice(None), slice(0)
# The first and last writers of each split: the photographs of all of them would take long to draw.
WRITERS = {"pendigits": (1, 24, 25, 27, 28, 30), "pendigits-test": (1, 14), "uji": (1, 34, 35, 40)}
VAL_WRITERS = {"pendigits 25", "pendigits 27", "uji 35", "uji 40"}
TEST_WRITERS = {"pendigits 28", "pendigits 30", "pendigits-test 1", "pendigits-test 14"}


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """Write an array in the format of MNIST's files."""
    header = struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


def write_mnist(folder: Path, train: slice, test: slice) -> None:
    """Write random digits as MNIST's files; those in the slices are altered."""
    (folder / "MNIST" / "raw").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count, altered in (("train", 10_100, train), ("t10k", 20, test)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.integers(0, 10, count, np.uint8)
        images[altered], labels[altered] = 255 - images[altered], 9 - labels[altered]
        write_idx(folder / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)


def unipen(source: str, altered: Collection[str] = ()) -> str:
    """Return UNIPEN text with a drawing by each writer; some of them drew another one."""
    lines = []
    for number in WRITERS[source]:
        seed = number, len(source), f"{source} {number}" in altered
        points = np.random.default_rng(seed).integers(0, 300, (8, 2))
        lines += [f".COMMENT {number % 10} {number} 0", ".PEN_DOWN"]
        lines += [*(f"{x} {y}" for x, y in points), ".PEN_UP"]
    return "\n".join(lines)


def make_drawings(altered: Collection[str] = ()) -> list[Drawing]:
    """Return a drawing by each writer."""
    return [d for source in WRITERS for d in parse_unipen(unipen(source, altered), source)]


def write_data(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    writers: Collection[str] = (),
    train: slice = NONE,
    test: slice = NONE,
) -> list[str]:
    """Write small data sets with alterations; return the options that make a command use them."""
    write_mnist(folder, train, test)
    sources = []
    for source in SOURCES:
        text = unipen(source.name, writers)
        (folder / source.file).write_text(text)
        published = digest(parse_unipen(text, source.name))
        sources.append(replace(source, parse=parse_unipen, sha256=published))
    monkeypatch.setattr("train.sources.SOURCES", sources)
    return ["--data", str(folder), "--drawings", str(folder)]


def are_equal(one: Digits, other: Digits) -> bool:
    """Return whether two sets have the same images and labels."""
    return torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)


def run_training(folder: Path, monkeypatch: pytest.MonkeyPatch, **altered: Any) -> dict[str, Any]:
    """Return the weights that `python -m train` saves."""
    options = [*write_data(folder, monkeypatch, **altered), "--runs", str(folder)]
    for name, value in asdict(TINY).items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    monkeypatch.setattr("train.data.TEST_SYNTHETIC", 2)
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
    monkeypatch.setattr("train.data.TEST_SYNTHETIC", 2)
    splits = load(tmp_path, tmp_path, TINY)
    drawings = 2 + SOURCE_WEIGHTS["uji"] * 2
    assert len(splits.train) == 10_100 - 5_000 + drawings + 10 + 20 + 3
    assert [len(digits) for digits in splits.val.values()] == [5_000, 2 * (2 + 2)]
    assert [len(digits) for digits in splits.test.values()] == [20] + 4 * [2 + 2] + 2 * [2]


def test_validation_uses_no_test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.TEST_SYNTHETIC", 2)
    write_data(tmp_path / "1", monkeypatch)
    splits = load(tmp_path / "1", tmp_path / "1", TINY)
    write_data(tmp_path / "2", monkeypatch, writers=TEST_WRITERS, test=ALL)
    others = load(tmp_path / "2", tmp_path / "2", TINY)
    assert all(are_equal(part, others.val[name]) for name, part in splits.val.items())
    same = {name for name, part in splits.test.items() if are_equal(part, others.test[name])}
    assert same == {"shapes"}  # they are not by writers


def test_shapes_to_test_on_are_not_those_of_the_training_data() -> None:
    training = [draw_shapes(100, np.random.default_rng(seed)) for seed in range(SYNTHETIC_EPOCHS)]
    seen = {shape.strokes[0].tobytes() for epoch in training for shape in epoch}
    shapes = draw_shapes(100, np.random.default_rng(TEST_SEED))
    assert len(seen) == 100 * SYNTHETIC_EPOCHS
    assert not seen & {shape.strokes[0].tobytes() for shape in shapes}


@pytest.mark.parametrize("fold", range(ablation.FOLDS))
def test_ablation_fold_does_not_train_on_what_it_evaluates(fold: int) -> None:
    numbers = torch.arange(10_200)
    digits = Digits(torch.zeros(10_200, 28, 28, dtype=torch.uint8), numbers)
    mnist = digits[:5_100], digits[5_100:10_100], digits[10_100:]
    drawings = [replace(drawing, digit=i) for i, drawing in enumerate(make_drawings())]
    settings = replace(TINY, shapes_per_epoch=0)
    training_set, evaluated = ablation.split(mnist, drawings, settings, fold)
    assert torch.equal(training_set.fixed.labels, numbers[:100])
    assert torch.equal(evaluated["MNIST"].labels, numbers[100:10_100])
    trained = {*training_set.synthetic[0]().labels.tolist()} - {OUTLIER}
    held_out = {i for i, d in enumerate(drawings) if d.writer not in TEST_WRITERS} - trained
    assert {*evaluated["drawings"].labels.tolist()} == held_out != set()
    altered = make_drawings({drawings[i].writer for i in held_out} | TEST_WRITERS)
    altered = [replace(drawing, digit=i) for i, drawing in enumerate(altered)]
    others, _ = ablation.split(mnist, altered, settings, fold)
    assert torch.equal(training_set.synthetic[0]().pixels, others.synthetic[0]().pixels)


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
    training = make_train_outliers(make_drawings(), TINY, seed=0)
    test = [renderer for kind in make_test_outliers(8).values() for renderer in kind]
    return render_all(training, ["white-on-black"]), render_all(test, ["white-on-black"])


def test_test_outliers_except_symbols_are_of_other_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not {*outliers.TRAIN_SCRIBBLES} & {*outliers.TEST_SCRIBBLES}
    assert not {*outliers.TRAIN_FONTS} & {*outliers.TEST_FONTS}
    assert not {*symbols.TRAIN} & {*symbols.TEST}
    training, test = draw_outliers()
    assert len(training) == TINY.outliers_per_epoch
    with monkeypatch.context() as patch:
        patch.setattr(symbols, "TRAIN", {"plus": symbols.TRAIN["plus"]})
        assert (draw_outliers()[0] != training).any()
    with monkeypatch.context() as patch:
        patch.setattr(outliers, "TRAIN_SCRIBBLES", outliers.TRAIN_SCRIBBLES[:1])
        patch.setattr(outliers, "TRAIN_FONTS", outliers.TRAIN_FONTS[:1])
        assert (draw_outliers()[1] == test).all()
    monkeypatch.setattr(outliers, "TEST_SCRIBBLES", outliers.TEST_SCRIBBLES[:1])
    monkeypatch.setattr(outliers, "TEST_FONTS", outliers.TEST_FONTS[:1])
    monkeypatch.setattr(symbols, "TEST", {"hash": symbols.TEST["hash"]})
    assert (draw_outliers()[0] == training).all()
