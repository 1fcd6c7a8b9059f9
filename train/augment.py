"""Augment a batch of images with random affine transformations."""

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ROTATION = 0.17  # radians
MAX_LOG_SCALE = 0.12
MAX_SHEAR = 0.15
MAX_SHIFT_PX = 0.8


def random_affine(images: Tensor, strength: float = 1.0) -> Tensor:
    """Rotate, scale, shear and shift each image by its own random amount.

    images: float32 [n, 1, 28, 28], from 0 to 1; the result has the same shape and range.
    strength: multiplies the ranges of all parameters; 0 leaves the images unchanged.
    """
    n, _, height, width = images.shape
    # One value per parameter and image: [6, n].
    parameters = strength * (torch.rand(6, n, device=images.device) * 2 - 1)
    angle, log_scale_x, log_scale_y, shear, shift_x, shift_y = parameters  # [n] each
    angle, shear = angle * MAX_ROTATION, shear * MAX_SHEAR
    scale_x = torch.exp(log_scale_x * MAX_LOG_SCALE)
    scale_y = torch.exp(log_scale_y * MAX_LOG_SCALE)
    cos, sin = torch.cos(angle), torch.sin(angle)
    row_x = cos * scale_x, (cos * shear - sin) * scale_y, shift_x * 2 * MAX_SHIFT_PX / width
    row_y = sin * scale_x, (sin * shear + cos) * scale_y, shift_y * 2 * MAX_SHIFT_PX / height
    matrices = torch.stack((torch.stack(row_x), torch.stack(row_y)))  # [2, 3, n]
    matrices = matrices.permute(2, 0, 1)  # [n, 2, 3]
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)  # [n, 28, 28, 2]
    # Bicubic, because bilinear sampling blurs and the images that are served are not blurred.
    return F.grid_sample(images, grid, "bicubic", align_corners=False).clamp(0, 1)
