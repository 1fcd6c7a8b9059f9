"""The digits that the model learns from, is calibrated by and is reported on.

| part   | MNIST                      | pen strokes of |
|--------|----------------------------|----------------|
| teach  | 55,000 of the training set | writers 1–24   |
| choose | its last 5,000             | writers 25–27  |
| report | the test set, 10,000       | writers 28–30  |
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.doubt import no_digits, other_no_digits
from train.drawings import (
    CANVAS,
    LOOKS,
    NAME,
    SMALL,
    Drawing,
    Hand,
    Ink,
    Pixels,
    draw,
    draw_all,
    draw_otherwise,
    read_drawings,
)
from train.settings import Settings

HELD_OUT = 5_000
CHOOSING_WRITERS = frozenset({25, 26, 27})
REPORTED_WRITERS = frozenset({28, 29, 30})
NO_DIGIT = -1  # the label of what is none

FRESH = 8  # epochs that get drawings of their own, before they are taught again: they take time
OTHERS = 1_000  # drawings of no digit that are reported, a kind


@dataclass(frozen=True)
class Digits:
    """Images, uint8 [n, 28, 28], ink 255 on 0, and what they are, int64 [n]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice) -> "Digits":
        return Digits(self.pixels[chosen], self.labels[chosen])

    def __add__(self, others: "Digits") -> "Digits":
        return Digits(
            torch.cat((self.pixels, others.pixels)), torch.cat((self.labels, others.labels))
        )

    def to(self, device: torch.device) -> "Digits":
        """Return the same digits on `device`."""
        return Digits(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Lessons:
    """What teaches: digits that stay the same, and drawings that each epoch has its own of."""

    same: Digits
    fresh: Sequence[Digits] = ()

    def __len__(self) -> int:
        return len(self.same) + (len(self.fresh[0]) if self.fresh else 0)

    def epoch(self, number: int) -> Digits:
        """Return all that is taught in an epoch."""
        return self.same + self.fresh[number % len(self.fresh)] if self.fresh else self.same


@dataclass(frozen=True)
class Parts:
    """All digits, by what they are used for; those that choose and report, by where from.

    `doubt` has what is no digit, of kinds and in fonts that do not teach.
    """

    teach: Lessons
    choose: dict[str, Digits]
    report: dict[str, Digits]
    doubt: dict[str, Digits]


def load(folder: Path, drawings_file: Path | None, settings: Settings) -> Parts:
    """Load MNIST from `folder` and draw the pen strokes; what is missing is downloaded.

    drawings_file: UCI's UNIPEN file, or None for MNIST alone.
    """
    same, choose, report = load_mnist(folder)
    if drawings_file is None:
        return Parts(Lessons(same), {"MNIST": choose}, {"MNIST": report}, {})
    drawings = read_drawings(drawings_file)
    teaching = by_writers(drawings, set(range(1, 31)) - CHOOSING_WRITERS - REPORTED_WRITERS)
    # How far to trust the answers is told by less neat hands than those three writers' own.
    choosing = draw_digits(
        by_writers(drawings, CHOOSING_WRITERS),
        ["white-on-black", "photo"],
        hand=partial(draw_otherwise, settings.bend),
    )
    return Parts(
        Lessons(same, fresh_drawings(teaching, settings)),
        {"MNIST": choose, "drawings": choosing},
        {"MNIST": report} | reported_drawings(drawings),
        doubted_drawings(),
    )


def default_drawings_file(folder: Path) -> Path:
    """Return where the pen strokes are kept when nobody says otherwise: beside MNIST."""
    return folder / NAME


def by_writers(drawings: Iterable[Drawing], writers: Set[int]) -> list[Drawing]:
    """Return what these writers drew."""
    return [drawing for drawing in drawings if drawing.writer in writers]


def reported_drawings(drawings: Iterable[Drawing]) -> dict[str, Digits]:
    """Return what writers who neither teach nor choose drew, in each look."""
    reported = by_writers(drawings, REPORTED_WRITERS)
    return {f"drawings, {look}": draw_digits(reported, [look]) for look in LOOKS}


def doubted_drawings() -> dict[str, Digits]:
    """Return what is no digit, of kinds and in fonts that are not taught."""
    return {name: _no_digits(inks) for name, inks in other_no_digits(OTHERS).items()}


def fresh_drawings(drawings: Sequence[Drawing], settings: Settings) -> list[Digits]:
    """Return what each epoch is taught: distorted copies of the drawings, and what is no digit."""
    looks, hand = ["white-on-black"] * settings.copies, partial(draw_otherwise, settings.bend)
    fresh = []
    for round_ in range(min(FRESH, settings.epochs)):
        seed = settings.seed * FRESH + round_
        others = _no_digits(no_digits(drawings, settings, seed), SMALL, seed)
        fresh.append(draw_digits(drawings, looks, SMALL, seed, hand) + others)
    return fresh


def draw_digits(
    drawings: Sequence[Drawing],
    looks: Sequence[str],
    edge: int = CANVAS,
    seed: int = 0,
    hand: Hand = draw,
) -> Digits:
    """Return the drawings, once in each of the looks, as this hand draws their strokes."""
    inks = [partial(hand, drawing.strokes) for drawing in drawings]
    return _labelled(draw_all(inks, looks, edge, seed), [drawing.digit for drawing in drawings])


def _no_digits(inks: Sequence[Ink], edge: int = CANVAS, seed: int = 0) -> Digits:
    return _labelled(draw_all(inks, ["white-on-black"], edge, seed), [NO_DIGIT] * len(inks))


def _labelled(pixels: Pixels, labels: Sequence[int]) -> Digits:
    """Return pixels [n, copies, 28, 28] of n labels as digits."""
    each = torch.tensor(labels, dtype=torch.int64).repeat_interleave(pixels.shape[1])
    return Digits(torch.from_numpy(pixels).flatten(0, 1), each)


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
