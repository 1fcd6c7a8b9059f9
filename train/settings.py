"""Hyperparameters of a training run."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Hyperparameters, stored in the run's checkpoint and in the model card."""

    epochs: int = 28
    batch_size: int = 256
    learning_rate: float = 6e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    affine_strength: float = 1.0  # multiplies the ranges in train/augment.py
    width: int = 48  # channels of the first convolution; the second has twice as many
    augmentations_per_drawing: int = 3  # per epoch, times SOURCE_WEIGHTS in train/data.py
    shapes_per_epoch: int = 8_000  # drawn from the shapes in train/shapes.py
    warp_amplitude: float = 0.03  # of pen strokes, relative to the drawing's size
    pictures_per_epoch: int = 600  # of digits on paper and on screens
    outliers_per_epoch: int = 12_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a value that makes training impossible."""
        for name, value in vars(self).items():
            positive = name in ("epochs", "batch_size", "learning_rate", "width")
            if not (0 < value < math.inf or (value == 0 and not positive)):
                expected = "greater than 0" if positive else "0 or greater"
                raise ValueError(f"{name} should be {expected}, but is {value}")
