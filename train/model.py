"""The network: two convolution layers and a fully connected one."""

from torch import Tensor, nn

KERNEL_SIZE = 5


class Network(nn.Module):
    """Map images, float32 [n, 1, 28, 28] from 0 to 1, to logits [n, 10]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            # Batch normalization after pooling works on a quarter of the values.
            nn.Conv2d(1, width, KERNEL_SIZE, bias=False),  # [n, width, 24, 24]
            nn.MaxPool2d(2),  # [n, width, 12, 12]
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, KERNEL_SIZE, bias=False),  # [n, 2 width, 8, 8]
            nn.MaxPool2d(2),  # [n, 2 width, 4, 4]
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Flatten(),  # [n, 32 width]
            nn.Linear(2 * width * 4 * 4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits
