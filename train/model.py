"""The network: two convolution layers and a fully connected one."""

import torch
from torch import Tensor, nn

CHANNELS = (48, 96)
KERNEL = 5


class Network(nn.Module):
    """Read a digit: float32 [n, 1, 28, 28], ink 1 on 0, to logits [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        first, second = CHANNELS
        self.layers = nn.Sequential(
            nn.Conv2d(1, first, KERNEL, padding="same", bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, KERNEL, padding="same", bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * 7 * 7, 10),
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
