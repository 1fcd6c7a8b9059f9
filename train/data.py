"""The data sets for training, validation and testing.

| split | MNIST                      | pen strokes of                       | outliers    |
|-------|----------------------------|--------------------------------------|-------------|
| train | 55,000 of the training set | pendigits 1–24, uji 1–34             | some kinds  |
| val   | its last 5,000             | pendigits 25–27, uji 35–40           |             |
| test  | the test set, 10,000       | pendigits 28–30, pendigits-test 1–14 | other kinds |

Additional shapes of digits, and pictures of the drawings, are generated at random for training and
testing. The clutter in the test pictures is of kinds that are not used in training. Test outliers
are scribbles and symbols of other kinds, and letters in other fonts; only `symbols` have templates
that are also used in training.
"""

from collections.abc import Callable, Collection, Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.drawings import (
    CANVAS_PX,
    STYLES,
    TRAIN_CANVAS_PX,
    Pixels,
    Renderer,
    draw_strokes,
    draw_varied,
    render_all,
)
from train.outliers import make_test_outliers, make_train_outliers
from train.pictures import SPOILED_SHARE, TEST_KINDS, TRAIN_KINDS, make_pictures
from train.settings import Settings
from train.shapes import draw_shapes
from train.sources import Drawing, is_unfinished_four, read_drawings
from webapp.prediction import OUTLIER

VAL_SIZE = 5_000  # of MNIST
VAL_WRITERS = frozenset(
    [f"pendigits {n}" for n in range(25, 28)] + [f"uji {n}" for n in range(35, 41)]
)
TEST_WRITERS = frozenset(
    [f"pendigits {n}" for n in range(28, 31)] + [f"pendigits-test {n}" for n in range(1, 15)]
)

SYNTHETIC_EPOCHS = 8  # epochs with drawings of their own; later epochs reuse them, to save time
SHAPES_SET, PICTURES_SET = "shapes", "pictures"  # names of the synthetic test sets
TEST_SYNTHETIC = 1_000  # test drawings of each synthetic kind
TEST_SEED = 2**31  # no training data is drawn with this seed
# These multiply augmentations_per_drawing: pendigits has nine times as many drawings as uji.
SOURCE_WEIGHTS = {"pendigits": 1, "uji": 3}


@dataclass(frozen=True)
class Digits:
    """Images, uint8 [n, 28, 28], white ink (255) on black (0), and their labels, int64 [n]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice | Tensor) -> "Digits":
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
    """Digits that are the same in every epoch, and synthetic drawings that change by epoch.

    synthetic: functions that return the drawings of one epoch; the epochs use them in turn.
    """

    fixed: Digits
    synthetic: Sequence[Callable[[], Digits]] = ()

    def __len__(self) -> int:
        return len(self.epoch(0))

    def epoch(self, number: int) -> Digits:
        """Return the training data of an epoch."""
        if not self.synthetic:
            return self.fixed
        return self.fixed + self.synthetic[number % len(self.synthetic)]()


@dataclass(frozen=True)
class Splits:
    """All data by split and source; `ood` has the test outliers.

    test_writers: the writer of each test drawing; the order is the same in each style.
    """

    train: TrainingSet
    val: dict[str, Digits]
    test: dict[str, Digits]
    ood: dict[str, Digits]
    test_writers: Sequence[str] = ()


def load(
    folder: Path, drawings_folder: Path, settings: Settings, without: Collection[str] = ()
) -> Splits:
    """Load MNIST and draw the pen strokes; download what is missing.

    without: names of files of pen strokes to leave out.
    """
    train, val, test = load_mnist(folder)
    drawings = read_drawings(drawings_folder, without)
    writers = {drawing.writer for drawing in drawings} - VAL_WRITERS - TEST_WRITERS
    # Varied, so that the confidence is calibrated on more kinds of handwriting.
    val_drawings = draw_digits(
        by_writers(drawings, VAL_WRITERS),
        ["white-on-black", "photo"],
        warp_amplitude=settings.warp_amplitude,
    )
    return Splits(
        TrainingSet(train, draw_training_epochs(by_writers(drawings, writers), settings)),
        {"MNIST": val, "drawings": val_drawings},
        {"MNIST": test} | draw_test_digits(drawings) | draw_synthetic_digits(drawings),
        draw_test_outliers() | draw_unfinished_fours(drawings),
        [drawing.writer for drawing in readable_test_drawings(drawings)],
    )


def by_writers(drawings: Iterable[Drawing], writers: Set[str]) -> list[Drawing]:
    """Return the drawings of these writers."""
    return [drawing for drawing in drawings if drawing.writer in writers]


def readable_test_drawings(drawings: Iterable[Drawing]) -> list[Drawing]:
    """Return the drawings of the test writers, without unfinished fours."""
    return [d for d in by_writers(drawings, TEST_WRITERS) if not is_unfinished_four(d)]


def draw_test_digits(drawings: Iterable[Drawing]) -> dict[str, Digits]:
    """Return the readable drawings of the test writers, in each style."""
    readable = readable_test_drawings(drawings)
    return {f"drawings, {style}": draw_digits(readable, [style]) for style in STYLES}


def draw_synthetic_digits(drawings: Iterable[Drawing]) -> dict[str, Digits]:
    """Return digits in shapes that the test writers hardly use, and pictures of their drawings."""
    shapes = draw_shapes(TEST_SYNTHETIC, np.random.default_rng(TEST_SEED))
    pictures, labels = make_pictures(
        readable_test_drawings(drawings), TEST_KINDS, 0, TEST_SYNTHETIC, TEST_SEED
    )
    varied = draw_digits(
        shapes, ["white-on-black"], seed=TEST_SEED, warp_amplitude=Settings.warp_amplitude
    )
    return {
        SHAPES_SET: varied,
        PICTURES_SET: _label(render_all(pictures, ["white-on-black"], seed=TEST_SEED), labels),
    }


def draw_unfinished_fours(drawings: Iterable[Drawing]) -> dict[str, Digits]:
    """Return the fours that lack their second stroke, so that nobody can read them."""
    strokes = [drawing.strokes for drawing in drawings if is_unfinished_four(drawing)]
    if not strokes:
        return {}
    renderers = [partial(draw_strokes, each) for each in strokes]
    return {"fours without their second stroke": _draw_outliers(renderers)}


def draw_test_outliers() -> dict[str, Digits]:
    """Return the test outliers by part; `make_test_outliers` says which kinds are trained on."""
    outliers = make_test_outliers(TEST_SYNTHETIC)
    return {kind: _draw_outliers(renderers) for kind, renderers in outliers.items()}


def draw_training_epochs(
    drawings: Sequence[Drawing], settings: Settings
) -> list[Callable[[], Digits]]:
    """Return a function for each of the first SYNTHETIC_EPOCHS epochs, which returns its data.

    It waits for the data: they are drawn in the background, while the network is trained.
    """
    background = ThreadPoolExecutor(max_workers=1)
    numbers = range(min(SYNTHETIC_EPOCHS, settings.epochs))
    epochs = [background.submit(_draw_epoch, drawings, settings, number) for number in numbers]
    return [epoch.result for epoch in epochs]


def _draw_epoch(drawings: Sequence[Drawing], settings: Settings, number: int) -> Digits:
    """Return varied copies of the drawings, additional shapes, outliers, and pictures."""
    seed = settings.seed * SYNTHETIC_EPOCHS + number
    rng = np.random.default_rng(seed)
    copies = [
        drawing
        for drawing in drawings
        for _ in range(settings.augmentations_per_drawing)
        for _ in range(SOURCE_WEIGHTS[drawing.writer.split()[0]])
    ]
    shapes = draw_shapes(settings.shapes_per_epoch, rng)
    digits = draw_digits(
        copies + shapes, ["white-on-black"], TRAIN_CANVAS_PX, seed, settings.warp_amplitude
    )
    outliers = make_train_outliers(drawings, settings, seed)
    pictures, labels = make_pictures(
        drawings, TRAIN_KINDS, SPOILED_SHARE, settings.pictures_per_epoch, seed
    )
    epoch = (
        digits
        + _draw_outliers(outliers, TRAIN_CANVAS_PX, seed)
        + _label(render_all(pictures, ["white-on-black"], seed=seed), labels)
    )
    # A blank picture is an outlier, because no digit was found in it.
    epoch.labels[epoch.pixels.amax(dim=(1, 2)) == 0] = OUTLIER
    return epoch


def draw_digits(
    drawings: Sequence[Drawing],
    styles: Sequence[str],
    canvas_px: int = CANVAS_PX,
    seed: int = 0,
    warp_amplitude: float | None = None,
) -> Digits:
    """Return the drawings once in each style; their strokes are warped if an amplitude is given."""
    if warp_amplitude is None:
        renderers = [partial(draw_strokes, drawing.strokes) for drawing in drawings]
    else:
        renderers = [partial(draw_varied, drawing.strokes, warp_amplitude) for drawing in drawings]
    pixels = render_all(renderers, styles, canvas_px, seed)
    return _label(pixels, [drawing.digit for drawing in drawings])


def _draw_outliers(
    outliers: Sequence[Renderer], canvas_px: int = CANVAS_PX, seed: int = 0
) -> Digits:
    pixels = render_all(outliers, ["white-on-black"], canvas_px, seed)
    return _label(pixels, [OUTLIER] * len(outliers))


def _label(pixels: Pixels, labels: Sequence[int]) -> Digits:
    """Return digits [n * styles, 28, 28] from pixels [n, styles, 28, 28] and n labels."""
    repeated = torch.tensor(labels, dtype=torch.int64).repeat_interleave(pixels.shape[1])
    return Digits(torch.from_numpy(pixels).flatten(0, 1), repeated)


def load_mnist(folder: Path) -> tuple[Digits, Digits, Digits]:
    """Return MNIST's digits for training, validation and testing; download them if missing.

    Raises ValueError if the content of the files differs, which torchvision does not check.
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
