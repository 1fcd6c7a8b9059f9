"""What a training run is told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Kept in the run's checkpoint and in the model's card."""

    epochs: int = 28
    batch: int = 256
    learning_rate: float = 6e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    distortion: float = 1.0  # of every image, times what train/augment.py says
    channels: int = 48  # of the first layer; the second has twice as many
    copies: int = 4  # of each pen drawing, an epoch
    bend: float = 0.03  # of a drawing's strokes, in its size
    doubted: int = 8_000  # drawings of no digit, an epoch
    seed: int = 0
