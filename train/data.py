"""The digits that the model learns from, is chosen by and is reported on.

| part   | MNIST                      | pen strokes of |
|--------|----------------------------|----------------|
| teach  | 55,000 of the training set | writers 1–24   |
| choose | its last 5,000             | writers 25–27  |
| report | the test set, 10,000       | writers 28–30  |
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.drawings import LOOKS, NAME, Drawing, draw_all, read_drawings

HELD_OUT = 5_000
CHOOSING_WRITERS = frozenset({25, 26, 27})
REPORTED_WRITERS = frozenset({28, 29, 30})
# Once prepared, the looks differ in nothing where the ground is plain; a photo does.
TEACHING_LOOKS = ["white-on-black"] * 4 + ["photo"] * 2
CHOOSING_LOOKS = ["white-on-black"] * 2 + ["photo"] * 2


@dataclass(frozen=True)
class Digits:
    """Images, uint8 [n, 28, 28], ink 255 on 0, and what they are, int64 [n]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice) -> "Digits":
        return Digits(self.pixels[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> "Digits":
        """Return the same digits on `device`."""
        return Digits(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Parts:
    """All digits, by what they are used for; those that choose and report, by where from."""

    teach: Digits
    choose: dict[str, Digits]
    report: dict[str, Digits]


def load(folder: Path, drawings_file: Path | None, seed: int) -> Parts:
    """Load MNIST from `folder` and draw the pen strokes; what is missing is downloaded.

    drawings_file: UCI's UNIPEN file, or None for MNIST alone.
    """
    teach, choose, report = load_mnist(folder)
    parts = Parts(teach, {"MNIST": choose}, {"MNIST": report})
    return parts if drawings_file is None else _with_drawings(parts, drawings_file, seed)


def default_drawings_file(folder: Path) -> Path:
    """Return where the pen strokes are kept when nobody says otherwise: beside MNIST."""
    return folder / NAME


def _with_drawings(parts: Parts, path: Path, seed: int) -> Parts:
    drawings = read_drawings(path)
    held_out = CHOOSING_WRITERS | REPORTED_WRITERS
    teaching = [drawing for drawing in drawings if drawing.writer not in held_out]
    choosing = [drawing for drawing in drawings if drawing.writer in CHOOSING_WRITERS]
    drawn = _drawn(teaching, TEACHING_LOOKS, distort=True, seed=seed)
    teach = Digits(
        torch.cat((parts.teach.pixels, drawn.pixels)), torch.cat((parts.teach.labels, drawn.labels))
    )
    choose = parts.choose | {"drawings": _drawn(choosing, CHOOSING_LOOKS, seed=seed)}
    return Parts(teach, choose, parts.report | reported_drawings(drawings))


def reported_drawings(drawings: list[Drawing]) -> dict[str, Digits]:
    """Return what writers who neither teach nor choose drew, in each look."""
    reported = [drawing for drawing in drawings if drawing.writer in REPORTED_WRITERS]
    return {f"drawings, {look}": _drawn(reported, [look]) for look in LOOKS}


def _drawn(
    drawings: list[Drawing], looks: list[str], *, distort: bool = False, seed: int = 0
) -> Digits:
    pixels = torch.from_numpy(draw_all(drawings, looks, distort=distort, seed=seed))
    labels = torch.tensor([drawing.digit for drawing in drawings])
    return Digits(pixels.flatten(0, 1), labels.repeat_interleave(len(looks)))


def load_mnist(folder: Path) -> tuple[Digits, Digits, Digits]:
    """Return MNIST's digits to teach, to choose and to report, downloaded when missing."""
    mnist = _torchvision_mnist()
    train, test = (mnist(str(folder), train=part, download=True) for part in (True, False))
    known = Digits(train.data, train.targets)
    return known[:-HELD_OUT], known[-HELD_OUT:], Digits(test.data, test.targets)


def _torchvision_mnist() -> Any:
    """Import torchvision's MNIST, also beside a torch without CUDA.

    The usual wheel of torchvision is compiled for CUDA. Beside a CPU torch its import fails until
    two operators that we never call are declared, which spares gigabytes of CUDA libraries.
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
