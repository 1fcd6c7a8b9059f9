"""Distort a batch of digits as another hand might have written them."""

import torch
import torch.nn.functional as F
from torch import Tensor

TURN = 0.17  # radians
SCALE = 0.12  # of the natural logarithm
SLANT = 0.15
SHIFT = 0.8  # pixels


def distort(images: Tensor, strength: float = 1.0) -> Tensor:
    """Turn, scale, slant and shift each image by its own random amount.

    images: float32 [n, 1, 28, 28], and so is what is returned.
    """
    count, _, height, width = images.shape
    angle, log_x, log_y, slant, right, down = strength * (
        torch.rand(6, count, device=images.device) * 2 - 1
    )
    angle, slant = angle * TURN, slant * SLANT
    scale_x, scale_y = torch.exp(log_x * SCALE), torch.exp(log_y * SCALE)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.stack((cos * scale_x, (cos * slant - sin) * scale_y, right * 2 * SHIFT / width)),
        torch.stack((sin * scale_x, (sin * slant + cos) * scale_y, down * 2 * SHIFT / height)),
    )
    where = F.affine_grid(
        torch.stack(rows).permute(2, 0, 1), list(images.shape), align_corners=False
    )
    # Bilinear sampling would blur, and what is served is not blurred.
    return F.grid_sample(images, where, "bicubic", align_corners=False).clamp(0, 1)
