"""Tell what each part of the recipe is worth: python -m train.study --help.

Short runs that differ in one setting, each on two folds of the writers who teach or choose, reading
what it was not taught: nine writers and MNIST's last 10,000 training digits. What is reported is
never looked at.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.__main__ import add_data_options
from train.data import (
    REPORTED_WRITERS,
    Digits,
    Lessons,
    by_writers,
    default_drawings_file,
    draw_digits,
    fresh_drawings,
    load_mnist,
)
from train.drawings import Drawing, read_drawings
from train.fit import choose_device, fit
from train.report import plot_study
from train.settings import Settings

PARTS = 3  # of the writers
FOLDS = 2  # of these parts, that are read in turn
MNIST_READ = 10_000
BASE = Settings(epochs=5, channels=32)
VARIANTS: dict[str, dict[str, Any]] = {
    "as it ships, but for width": {},
    "48 and 96 channels": {"channels": 48},
    "strokes not bent": {"bend": 0.0},
    "no drawings of digits": {"copies": 0},
    "images not distorted": {"distortion": 0.0},
    "no doubt taught": {"doubted": 0},
    "hard labels": {"label_smoothing": 0.0},
}


def main() -> None:
    """Run what has not been run yet, and show all."""
    parser = argparse.ArgumentParser(prog="python -m train.study", description=__doc__)
    add_data_options(parser)
    parser.add_argument("variants", nargs="*", help=f"all of: {'; '.join(VARIANTS)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="kept here")
    parser.add_argument("--report", type=Path, default=Path("artifacts/report"), help="shown here")
    options = parser.parse_args()
    if options.drawings == "none" or not VARIANTS.keys() >= {*options.variants}:
        parser.error(f"it needs pen strokes, and variants of: {'; '.join(VARIANTS)}")
    drawings = read_drawings(Path(options.drawings or default_drawings_file(options.data)))
    for variant in options.variants or VARIANTS:
        for fold in range(FOLDS):
            file = options.runs / f"{name_of(variant)}-{fold}.json"
            if not file.exists():
                wrong = _run(replace(BASE, **VARIANTS[variant]), options.data, drawings, fold)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(wrong))
                print(variant, fold, wrong, flush=True)
    show(options.runs, options.report)


def name_of(variant: str) -> str:
    """Return a variant's name as part of a file's."""
    return variant.replace(",", "").replace(" ", "-")


def split(
    mnist: tuple[Digits, Digits, Digits], drawings: list[Drawing], settings: Settings, fold: int
) -> tuple[Lessons, dict[str, Digits]]:
    """Return what teaches in a fold, and what is read in it."""
    known = mnist[0] + mnist[1]
    writers = set(range(1, 31)) - REPORTED_WRITERS
    others = {writer for writer in writers if writer % PARTS == fold}
    teach = by_writers(drawings, writers - others)
    read = draw_digits(by_writers(drawings, others), ["white-on-black", "photo"])
    lessons = Lessons(known[:-MNIST_READ], fresh_drawings(teach, settings))
    return lessons, {"MNIST": known[-MNIST_READ:], "drawings": read}


def _run(settings: Settings, data: Path, drawings: list[Drawing], fold: int) -> dict[str, float]:
    lessons, read = split(load_mnist(data), drawings, settings, fold)
    fitted = fit(lessons, read, settings, choose_device())
    return {part: 1 - right for part, right in fitted.epochs[-1].held_out.items()}


def show(runs: Path, folder: Path) -> None:
    """Leave a table and a picture of all that has run: {variant: {part: [share wrong, a fold]}}."""
    study: dict[str, dict[str, list[float]]] = {}
    for variant in VARIANTS:
        files = [runs / f"{name_of(variant)}-{fold}.json" for fold in range(FOLDS)]
        folds = [json.loads(file.read_text()) for file in files if file.exists()]
        if folds:
            study[variant] = {part: [wrong[part] for wrong in folds] for part in folds[0]}
    (folder / "ablations.json").write_text(json.dumps(study, indent=2) + "\n")
    plot_study(study).savefig(folder / "ablations.png", dpi=120)


if __name__ == "__main__":
    main()
