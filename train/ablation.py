"""Measure what each part of the training contributes: python -m train.ablation --help.

Each variant changes one setting of a short training run. It is trained and evaluated on two folds
of the training and validation data: a third of the writers and MNIST's last 10,000 training digits
are held out. The test data is not used.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.__main__ import add_data_options, loading
from train.data import (
    TEST_WRITERS,
    Digits,
    TrainingSet,
    by_writers,
    draw_digits,
    draw_training_epochs,
    load_mnist,
)
from train.fit import choose_device, fit
from train.plots import DPI, plot_ablations
from train.settings import Settings
from train.sources import Drawing, read_drawings

WRITER_GROUPS = 3
FOLDS = 2  # groups that are held out in turn
MNIST_HELD_OUT = 10_000
BASELINE = Settings(epochs=5, width=32)
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline (width 32)": {},
    "width 48": {"width": 48},
    "no shapes": {"shapes_per_epoch": 0},
    "no pictures": {"pictures_per_epoch": 0},
    "no stroke warping": {"warp_amplitude": 0.0},
    "no pen drawings": {"augmentations_per_drawing": 0},
    "no affine augmentation": {"affine_strength": 0.0},
    "no outlier exposure": {"outliers_per_epoch": 0},
    "no label smoothing": {"label_smoothing": 0.0},
}

ErrorRates = dict[str, list[float]]  # of each part of the held-out data, by fold


def main() -> None:
    """Run the variants, and add their results to the report."""
    parser = argparse.ArgumentParser(prog="python -m train.ablation", description=__doc__)
    add_data_options(parser)
    parser.add_argument("variants", nargs="*", help=f"default: all of {'; '.join(VARIANTS)}")
    parser.add_argument("--report", type=Path, default=Path("artifacts/report"), help="folder")
    options = parser.parse_args()
    if not VARIANTS.keys() >= {*options.variants}:
        parser.error(f"the variants are: {'; '.join(VARIANTS)}")
    with loading():
        mnist = load_mnist(options.data)
        drawings = read_drawings(options.drawings, options.without)
    options.report.mkdir(parents=True, exist_ok=True)
    file = options.report / "ablations.json"
    results: dict[str, ErrorRates] = json.loads(file.read_text()) if file.exists() else {}
    for variant in options.variants or VARIANTS:
        results[variant] = run(replace(BASELINE, **VARIANTS[variant]), mnist, drawings)
        print(variant, results[variant], flush=True)
        results = {name: results[name] for name in VARIANTS if name in results}
        file.write_text(json.dumps(results, indent=2) + "\n")
        plot_ablations(results).savefig(file.with_suffix(".png"), dpi=DPI)


def run(
    settings: Settings, mnist: tuple[Digits, Digits, Digits], drawings: list[Drawing]
) -> ErrorRates:
    """Train and evaluate on each fold."""
    accuracies = []
    for fold in range(FOLDS):
        train, held_out = split(mnist, drawings, settings, fold)
        model = fit(train, held_out, settings, choose_device())
        accuracies.append(model.epochs[-1].val_accuracy)
    return {part: [1 - accuracy[part] for accuracy in accuracies] for part in accuracies[0]}


def split(
    mnist: tuple[Digits, Digits, Digits], drawings: list[Drawing], settings: Settings, fold: int
) -> tuple[TrainingSet, dict[str, Digits]]:
    """Return the training set and the held-out data of a fold."""
    digits = mnist[0] + mnist[1]
    writers = {drawing.writer for drawing in drawings} - TEST_WRITERS
    held_out_writers = {
        writer for writer in writers if int(writer.split()[1]) % WRITER_GROUPS == fold
    }
    held_out = by_writers(drawings, held_out_writers)
    train = by_writers(drawings, writers - held_out_writers)
    return TrainingSet(digits[:-MNIST_HELD_OUT], draw_training_epochs(train, settings)), {
        "MNIST": digits[-MNIST_HELD_OUT:],
        "drawings": draw_digits(held_out, ["white-on-black", "photo"]),
    }


if __name__ == "__main__":
    main()
