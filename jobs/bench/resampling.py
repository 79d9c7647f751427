"""Bicubic and Lanczos resizing, the filters that an upscaler is compared with.

Shapes: f frames, c channels, h w pixels.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache

import torch
from torch import Tensor


def resize(frames: Tensor, size: Iterable[int], kernel: str) -> Tensor:
    """Frames [f c h w] at another size. The filter, "bicubic" or "lanczos", is separable, and widened to reduce."""
    height, width = size
    down, across = _filter(frames.shape[2], height, kernel), _filter(frames.shape[3], width, kernel)
    return (down @ frames @ across.T).clamp(0, 1)


@cache
def _filter(old: int, new: int, kernel: str) -> Tensor:
    """The matrix [new old] that resamples one axis as Pillow does: pixel centres, weights renormalised at borders."""
    curve, reach = _KERNELS[kernel]
    stretch = max(1.0, old / new)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    distance = ((torch.arange(old, dtype=torch.float64) - centres[:, None]) / stretch).abs()
    weights = torch.where(distance < reach, curve(distance), 0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5."""
    return torch.where(x < 1, (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)


def _lanczos(x: Tensor) -> Tensor:
    """Lanczos' kernel with three lobes."""
    return torch.sinc(x) * torch.sinc(x / 3)


_KERNELS: Mapping[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
