"""Train the digit model: python -m train --help."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from dotenv import dotenv_values

from train.data import load
from train.fit import choose_device, fit
from train.labelled import FINE_TUNING, add_labelled, load_published
from train.report import write_run
from train.settings import Settings
from train.sources import SOURCES


def main() -> None:
    """Train a model, evaluate it, and write the folder of the run."""
    options, settings = _parse()
    with loading():
        splits = load(options.data, options.drawings, settings, options.without)
        network, version = None, None
        if options.labelled:
            splits = add_labelled(splits, options.labelled)
        if _is_fine_tuning(options):
            network, version = load_published(options.published)
            settings = replace(settings, width=network.width)

    print(f"train  {len(splits.train):,}")
    for split, parts in (("val", splits.val), ("test", splits.test), ("ood", splits.ood)):
        print(f"{split:6} " + "; ".join(f"{name} {len(part):,}" for name, part in parts.items()))
    print(f"device {options.device}", flush=True)

    folder = options.runs / time.strftime("%Y%m%d-%H%M%S")
    model = fit(splits.train, splits.val, settings, options.device, network)
    metrics = write_run(folder, model, splits, settings, version)
    print("test accuracy")
    for name, part in metrics["test"].items():
        print(f"  {name:26} {part['accuracy']:.2%} of {part['digits']:,}")
    print("uncertain outliers")
    for name, rate in metrics["ood_rejection_rate"].items():
        print(f"  {name:26} {rate:.1%}")
    print(f"run {folder}")


@contextmanager
def loading() -> Iterator[None]:
    """Exit with a sentence if the training data cannot be loaded."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(
            f"The training data could not be loaded: {error}\n"
            "To use local copies instead of downloading them, set --data and --drawings."
        )


def _parse() -> tuple[argparse.Namespace, Settings]:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--labelled", type=Path, help="file of labels: see docs/learning.md")
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="train a new network on the labels and all other data instead of fine-tuning",
    )
    parser.add_argument(
        "--published",
        type=Path,
        default=Path("artifacts/digits.onnx"),
        help="model that --labelled fine-tunes (default: artifacts/digits.onnx)",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for all runs")
    parser.add_argument("--device", help="cuda, mps or cpu (default: the fastest one available)")
    for setting in fields(Settings):
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            type=type(setting.default),
            metavar="X",
            help=f"default: {setting.default}",
        )
    options = parser.parse_args()
    if options.labelled and not options.labelled.is_file():
        parser.error(f"there is no file {options.labelled}")
    try:
        options.device = choose_device(options.device)
        values = {field.name: getattr(options, field.name) for field in fields(Settings)}
        defaults = FINE_TUNING if _is_fine_tuning(options) else Settings()
        return options, replace(
            defaults, **{name: value for name, value in values.items() if value is not None}
        )
    except ValueError as error:
        parser.error(str(error))


def _is_fine_tuning(options: argparse.Namespace) -> bool:
    return bool(options.labelled and not options.from_scratch)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that locate the training data."""
    environ = dotenv_values(".env") | os.environ
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(environ.get("MNIST_DIR") or "data"),
        help="folder of MNIST, downloaded when missing (default: MNIST_DIR, or data)",
    )
    parser.add_argument(
        "--drawings",
        type=Path,
        default=Path(environ.get("DRAWINGS_DIR") or "data"),
        help="folder of the pen strokes, downloaded when missing (default: DRAWINGS_DIR, or data)",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=[source.file for source in SOURCES],
        help="leave out a file of pen strokes that cannot be downloaded; may be repeated",
    )
    if environ.get("DRAWINGS_FILE"):
        parser.error(
            "DRAWINGS_FILE has been replaced by DRAWINGS_DIR, a folder that contains "
            f"{', '.join(source.file for source in SOURCES)}: set that instead."
        )


if __name__ == "__main__":
    main()
