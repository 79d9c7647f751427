"""New detail in a matched frame: samples that lie between those of the current frame.

A fetched grey level is placed where the current frame, interpolated between its pixels, is most similar (Lucas and
Kanade, 1981: least squares over a neighbourhood). The remaining difference is not motion. It is detail that one frame
aliases and another does not, or a wrong match. It is returned on a grid inside the pixel, weighted by nearness.

Shapes: m pictures, n others that match each, h w pixels, k places inside a pixel.
"""

from typing import NamedTuple, Self

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import functional

INSIDE = 4
"""Rows and columns of the grid inside a pixel: those of its pixels at x4."""

_REACH = 3  # pixels around each that are assumed to move with it
_ROUNDS = 2
_TRUSTED = 3 / 255  # a plausible difference of a good match
_STIFF = 1e-5  # regularises pixels without contrast
_APART = 0.375  # of a pixel: a sample has no weight at a place this far away


class Slopes(NamedTuple):
    """Vertical and horizontal gradients of grey levels [m h w], and their mean products around each pixel."""

    grey: Tensor
    down: Tensor
    across: Tensor
    yy: Tensor
    yx: Tensor
    xx: Tensor

    @classmethod
    def of(cls, grey: Tensor) -> Self:
        """Of grey levels [m h w]."""
        down, across = _slope(grey, 1), _slope(grey, 2)
        yy, yx, xx = (_around(product) for product in (down * down, down * across, across * across))
        return cls(grey, down, across, yy + _STIFF, yx, xx + _STIFF)


@torch.no_grad()
def subpixel_residual(current: Slopes, fetched: Tensor) -> tuple[Tensor, Tensor]:
    """The residuals of the levels `fetched` [m n h w] against the frames that they match, and their weights.

    Returns:
        Both [m k h w] by place inside the pixel, summed over n: weighted differences, and weights (nearness and trust).
    """
    grey, down, across, yy, yx, xx = (part.unsqueeze(1) for part in current)
    whole = yy * xx - yx * yx
    y, x = torch.zeros_like(fetched), torch.zeros_like(fetched)
    difference = fetched - grey
    for _ in range(_ROUNDS):
        along_y, along_x = _around(down * difference), _around(across * difference)
        y = (y + (xx * along_y - yx * along_x) / whole).clamp(-1, 1)
        x = (x + (yy * along_x - yx * along_y) / whole).clamp(-1, 1)
        difference = fetched - _read_between(grey, y, x)
    trust = 1 / (1 + _around(difference.square()) / _TRUSTED**2)
    weight = _near(y).unsqueeze(3) * _near(x).unsqueeze(2) * rearrange(trust, "m n h w -> m n 1 1 h w")
    new = weight * rearrange(difference, "m n h w -> m n 1 1 h w")
    first, second = (reduce(sheets, "m n i j h w -> m (i j) h w", "sum") for sheets in (new, weight))
    return first, second


def _near(offset: Tensor) -> Tensor:
    """The nearness of the places inside a pixel to `offset` [m n h w] from its centre: [m n i h w]."""
    places = (torch.arange(INSIDE, device=offset.device) + 0.5) / INSIDE - 0.5
    away = (offset.unsqueeze(2) - rearrange(places, "i -> 1 1 i 1 1")).abs()
    return (1 - away / _APART).clamp(min=0)


def _slope(x: Tensor, dim: int) -> Tensor:
    """The change of [m h w] along `dim` over a pixel: bicubic, half a pixel before and after it."""
    first, second = (_beyond(x, step, dim) - _beyond(x, -step, dim) for step in (1, 2))
    return 0.6875 * first - 0.09375 * second


def _beyond(x: Tensor, step: int, dim: int) -> Tensor:
    """`x`, shifted by `step` pixels along `dim`, with its edge repeated."""
    index = (torch.arange(x.shape[dim], device=x.device) + step).clamp(0, x.shape[dim] - 1)
    return x.index_select(dim, index)


def _around(x: Tensor) -> Tensor:
    """The mean of [... h w] over each pixel's neighbourhood."""
    flat = functional.pad(x.reshape(-1, 1, *x.shape[-2:]), [_REACH] * 4, mode="replicate")
    side = 2 * _REACH + 1
    return functional.avg_pool2d(functional.avg_pool2d(flat, (side, 1), 1), (1, side), 1).reshape(x.shape)


def _read_between(grey: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """`grey` [m 1 h w] at these offsets from each pixel [m n h w], by bicubic interpolation."""
    n, height, width = down.shape[1:]
    rows, columns = (torch.arange(size, device=grey.device, dtype=grey.dtype) for size in (height, width))
    place_y, place_x = rows[:, None] + down, columns + across
    grid = torch.stack(((2 * place_x + 1) / width - 1, (2 * place_y + 1) / height - 1), dim=-1)
    read = functional.grid_sample(
        repeat(grey, "m 1 h w -> (m n) 1 h w", n=n), rearrange(grid, "m n h w two -> (m n) h w two"),
        mode="bicubic", padding_mode="border", align_corners=False,
    )  # fmt: skip
    return rearrange(read, "(m n) 1 h w -> m n h w", n=n)
