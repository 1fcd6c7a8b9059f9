"""Train the digit classifier: python -m train --help."""

import argparse
import os
import sys
import time
from dataclasses import fields
from pathlib import Path

from dotenv import dotenv_values

from train import report
from train.data import default_drawings_file, load
from train.fit import choose_device, fit
from train.model import Network, describe
from train.settings import Settings


def main() -> None:
    """Train, measure, and leave a run's folder behind."""
    options = _parse()
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    device = choose_device(options.device)
    drawings = Path(options.drawings or default_drawings_file(options.data))
    try:
        parts = load(options.data, None if options.drawings == "none" else drawings, settings)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(
            f"The digits to learn from cannot be had: {error}\n"
            "They are downloaded; --data and --drawings name copies that are here already."
        )

    print(f"teach   {len(parts.teach):,}")
    for use, digits in (("choose", parts.choose), ("report", parts.report), ("doubt", parts.doubt)):
        print(f"{use:7} " + "; ".join(f"{name} {len(part):,}" for name, part in digits.items()))
    print(f"device  {device}\nlayers\n{describe(Network(settings.channels))}", flush=True)

    folder = options.runs / time.strftime("%Y%m%d-%H%M%S")
    fitted = fit(parts.teach, parts.choose, settings, device)
    metrics = report.write(folder, fitted, parts, settings)
    print("never seen before:")
    for name, part in metrics["figures"].items():
        print(f"  {name:26} {part['accuracy']:.2%} of {part['digits']:,} right")
    for name, share in metrics["doubted"].items():
        print(f"  {name:26} {share:.1%} uncertain")
    print(f"run {folder}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept")
    parser.add_argument("--device", help="cuda, mps or cpu (the fastest there is)")
    for setting in fields(Settings):
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            type=type(setting.default),
            default=setting.default,
            metavar="X",
            help=f"{setting.default}",
        )
    return parser.parse_args()


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Let the command line say where the digits lie: `data`, a Path, and `drawings`."""
    environ = dotenv_values(".env") | os.environ
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(environ.get("MNIST_DIR") or "data"),
        help="where MNIST lies; downloaded when missing (MNIST_DIR, else data)",
    )
    parser.add_argument(
        "--drawings",
        default=environ.get("DRAWINGS_FILE"),
        help="file of pen strokes, fetched when missing, or 'none' for MNIST alone "
        "(DRAWINGS_FILE, else beside MNIST)",
    )


if __name__ == "__main__":
    main()
