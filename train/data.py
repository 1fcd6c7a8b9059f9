"""The data sets for training, validation and testing.

| split | MNIST                      | pen strokes of | outliers                   |
|-------|----------------------------|----------------|----------------------------|
| train | 55,000 of the training set | writers 1–24   | train/outliers.py          |
| val   | its last 5,000             | writers 25–27  |                            |
| test  | the test set, 10,000       | writers 28–30  | `ood`: other kinds, fonts  |
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.drawings import (
    CANVAS_PX,
    FILE_NAME,
    STYLES,
    TRAIN_CANVAS_PX,
    Drawing,
    Pixels,
    Renderer,
    draw,
    draw_warped,
    read_drawings,
    render_all,
)
from train.outliers import make_test_outliers, make_train_outliers
from train.settings import Settings

VAL_SIZE = 5_000  # of MNIST
VAL_WRITERS = frozenset({25, 26, 27})
TEST_WRITERS = frozenset({28, 29, 30})
OUTLIER = -1  # the label of an outlier

SYNTHETIC_EPOCHS = 8  # epochs with drawings of their own; later epochs reuse them, to save time
TEST_OUTLIERS = 1_000  # of each kind


@dataclass(frozen=True)
class Digits:
    """Images, uint8 [n, 28, 28], white ink (255) on black (0), and their labels, int64 [n]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice) -> "Digits":
        return Digits(self.pixels[chosen], self.labels[chosen])

    def __add__(self, other: "Digits") -> "Digits":
        return Digits(
            torch.cat((self.pixels, other.pixels)), torch.cat((self.labels, other.labels))
        )

    def to(self, device: torch.device) -> "Digits":
        """Return the same digits on `device`."""
        return Digits(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class TrainingSet:
    """Digits that are the same in every epoch, and synthetic drawings that change by epoch."""

    fixed: Digits
    synthetic: Sequence[Digits] = ()

    def __len__(self) -> int:
        return len(self.fixed) + (len(self.synthetic[0]) if self.synthetic else 0)

    def epoch(self, number: int) -> Digits:
        """Return the training data of an epoch."""
        if not self.synthetic:
            return self.fixed
        return self.fixed + self.synthetic[number % len(self.synthetic)]


@dataclass(frozen=True)
class Splits:
    """All data by use, and by source; `ood` has outliers of kinds and fonts not trained on."""

    train: TrainingSet
    val: dict[str, Digits]
    test: dict[str, Digits]
    ood: dict[str, Digits]


def load(folder: Path, drawings_file: Path, settings: Settings) -> Splits:
    """Load MNIST from `folder` and draw the pen strokes; download what is missing."""
    train, val, test = load_mnist(folder)
    drawings = read_drawings(drawings_file)
    train_drawings = by_writers(drawings, set(range(1, 31)) - VAL_WRITERS - TEST_WRITERS)
    # Warped, so that the confidence is calibrated on more kinds of handwriting than three writers'.
    val_drawings = draw_digits(
        by_writers(drawings, VAL_WRITERS),
        ["white-on-black", "photo"],
        warp_amplitude=settings.warp_amplitude,
    )
    return Splits(
        TrainingSet(train, draw_training_epochs(train_drawings, settings)),
        {"MNIST": val, "drawings": val_drawings},
        {"MNIST": test} | draw_test_digits(drawings),
        draw_test_outliers(),
    )


def default_drawings_file(folder: Path) -> Path:
    """Return the default path of the pen strokes: beside MNIST."""
    return folder / FILE_NAME


def by_writers(drawings: Iterable[Drawing], writers: Set[int]) -> list[Drawing]:
    """Return the drawings of these writers."""
    return [drawing for drawing in drawings if drawing.writer in writers]


def draw_test_digits(drawings: Iterable[Drawing]) -> dict[str, Digits]:
    """Return the drawings of the test writers, in each style."""
    test_drawings = by_writers(drawings, TEST_WRITERS)
    return {f"drawings, {style}": draw_digits(test_drawings, [style]) for style in STYLES}


def draw_test_outliers() -> dict[str, Digits]:
    """Return outliers of kinds and fonts that are not used in training."""
    outliers = make_test_outliers(TEST_OUTLIERS)
    return {kind: _draw_outliers(renderers) for kind, renderers in outliers.items()}


def draw_training_epochs(drawings: Sequence[Drawing], settings: Settings) -> list[Digits]:
    """Return the synthetic data of each epoch: warped copies of the drawings, and outliers."""
    styles = ["white-on-black"] * settings.augmentations_per_drawing
    epochs = []
    for number in range(min(SYNTHETIC_EPOCHS, settings.epochs)):
        seed = settings.seed * SYNTHETIC_EPOCHS + number
        digits = draw_digits(drawings, styles, TRAIN_CANVAS_PX, seed, settings.warp_amplitude)
        outliers = make_train_outliers(drawings, settings, seed)
        epochs.append(digits + _draw_outliers(outliers, TRAIN_CANVAS_PX, seed))
    return epochs


def draw_digits(
    drawings: Sequence[Drawing],
    styles: Sequence[str],
    canvas_px: int = CANVAS_PX,
    seed: int = 0,
    warp_amplitude: float | None = None,
) -> Digits:
    """Return the drawings once in each style; their strokes are warped if an amplitude is given."""
    if warp_amplitude is None:
        renderers = [partial(draw, drawing.strokes) for drawing in drawings]
    else:
        renderers = [partial(draw_warped, drawing.strokes, warp_amplitude) for drawing in drawings]
    pixels = render_all(renderers, styles, canvas_px, seed)
    return _label(pixels, [drawing.digit for drawing in drawings])


def _draw_outliers(
    outliers: Sequence[Renderer], canvas_px: int = CANVAS_PX, seed: int = 0
) -> Digits:
    pixels = render_all(outliers, ["white-on-black"], canvas_px, seed)
    return _label(pixels, [OUTLIER] * len(outliers))


def _label(pixels: Pixels, labels: Sequence[int]) -> Digits:
    """Join pixels [n, styles, 28, 28] and n labels to digits [n * styles, 28, 28]."""
    repeated = torch.tensor(labels, dtype=torch.int64).repeat_interleave(pixels.shape[1])
    return Digits(torch.from_numpy(pixels).flatten(0, 1), repeated)


def load_mnist(folder: Path) -> tuple[Digits, Digits, Digits]:
    """Return MNIST's digits for training, validation and testing; download them if missing.

    Raises ValueError if the files have another content, which torchvision does not check.
    """
    mnist = _import_mnist()
    try:
        train, test = (mnist(str(folder), train=part, download=True) for part in (True, False))
    except (AssertionError, LookupError) as error:
        raise ValueError(
            f"the files in {folder / 'MNIST' / 'raw'} are not those of MNIST: "
            "delete them to download them again."
        ) from error
    digits = Digits(train.data, train.targets)
    return digits[:-VAL_SIZE], digits[-VAL_SIZE:], Digits(test.data, test.targets)


def _import_mnist() -> Any:
    """Import torchvision's MNIST, with a CPU build of torch as well.

    torchvision's usual wheel is compiled for CUDA. With a CPU build of torch its import fails until
    two operators, which are never called here, are declared. This saves gigabytes of libraries.
    """
    try:
        from torchvision.datasets import MNIST
    except RuntimeError:
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
        from torchvision.datasets import MNIST
    return MNIST
