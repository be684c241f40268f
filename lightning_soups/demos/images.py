"""Changing small grey images: training augmentation and the shifts that test sets are made with."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional


def augment(images: Tensor, strength: float, generator: Generator | None = None) -> Tensor:
    """Rotate, shift, scale, change contrast and add noise, at random for each image.

    Args:
        images: Shape (N, 1, H, W), values from 0 to 1.
        strength: 0 changes nothing; 2 is ±30° of rotation, ±1.2 pixels of shift, ±15 % of scale, ±40 % of contrast
            and noise with a standard deviation of 0.1; other values scale all of these.
        generator: The source of randomness; the global one by default.

    Returns:
        New images of the same shape.
    """
    if strength == 0:
        return images
    part = strength / 2
    moved = move(images, degrees=30 * part, pixels=1.2 * part, scale=0.15 * part, generator=generator)
    contrast = 1 + 0.4 * part * _uniform((len(images), 1, 1, 1), images, generator)
    return add_noise((moved * contrast).clamp(0, 1), 0.1 * part, generator)


def move(
    images: Tensor, degrees: float = 0, pixels: float = 0, scale: float = 0, generator: Generator | None = None
) -> Tensor:
    """Rotate, shift and scale each image by a uniformly random amount within ± the given ranges.

    Args:
        images: Shape (N, 1, H, W).
        degrees: Range of rotation.
        pixels: Range of shift, in each direction.
        scale: Range of relative scale.
        generator: The source of randomness.

    Returns:
        New images of the same shape; what comes from outside is 0.
    """
    count = len(images)
    angle = math.radians(degrees) * _uniform((count,), images, generator)
    zoom = 1 + scale * _uniform((count,), images, generator)
    shift = 2 * pixels / images.shape[-1] * _uniform((count, 2), images, generator)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    affine = torch.cat([rotation / zoom.view(count, 1, 1), shift.unsqueeze(2)], dim=2)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def add_noise(images: Tensor, deviation: float, generator: Generator | None = None) -> Tensor:
    """Add Gaussian noise of the given standard deviation; values stay within 0 and 1."""
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images + deviation * noise).clamp(0, 1)


def blur(images: Tensor, contrast: float) -> Tensor:
    """Blur with a 3 by 3 binomial kernel and scale the values by ``contrast``. Shape (N, 1, H, W)."""
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    return contrast * functional.conv2d(images, (row[:, None] * row).view(1, 1, 3, 3), padding=1)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
    return 2 * torch.rand(shape, generator=generator, device=like.device) - 1
