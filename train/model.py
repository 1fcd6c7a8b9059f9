"""The network: two convolution layers and a fully connected one."""

import torch
from torch import Tensor, nn

KERNEL = 5


class Network(nn.Module):
    """Read a digit: float32 [n, 1, 28, 28], ink 1 on 0, to logits [n, 10]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = channels, 2 * channels
        self.layers = nn.Sequential(
            # Normalised after pooling, which leaves a quarter of the values to work on.
            nn.Conv2d(1, first, KERNEL, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, KERNEL, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(second * 4 * 4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


def describe(network: Network) -> str:
    """Return a table of the layers: what each answers with, and its weights."""
    lines, shape = [], torch.zeros(1, 1, 28, 28)
    for layer in network.layers.eval():
        shape = layer(shape)
        weights = sum(parameter.numel() for parameter in layer.parameters())
        lines.append(f"  {type(layer).__name__:12} {list(shape.shape[1:])!s:14} {weights:>7,}")
    total = sum(parameter.numel() for parameter in network.parameters())
    return "\n".join([*lines, f"  {'all weights':27} {total:>7,}"])
