"""What a matched frame holds that the current one cannot have: samples between its own, and where they lie.

A fetched grey level lies where the current picture, read between its pixels, looks like it (Lucas and Kanade, 1981:
least squares over a neighbourhood). What it differs by there is no motion but new: detail that one frame aliases and
another does not, or a wrong match. It is handed on as a sheet of the pixel's inside, strongest where the sample lies.

Shapes: m pictures, n others that match each, h w pixels, k places inside a pixel.
"""

from typing import NamedTuple, Self

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import functional

INSIDE = 4
"""Places down and across inside a pixel: those of the pixels that it becomes at x4."""

_REACH = 3  # pixels around each that move as it does
_ROUNDS = 2
_TRUSTED = 3 / 255  # a difference that a match may well have
_STIFF = 1e-5  # keeps what has no contrast in place
_APART = 0.375  # of a pixel: a place that far from a sample knows nothing of it


class Slopes(NamedTuple):
    """How grey levels [m h w] change down and across, and the mean products of both around each pixel."""

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
    """What the levels `fetched` [m n h w] add to those of the pictures they match, and how far that is to be trusted.

    Returns:
        Both [m k h w] by place inside the pixel, over all n: differences weighed by nearness and trust, and weights.
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
    """How near the places inside a pixel are to `offset` [m n h w] from its middle: [m n i h w]."""
    places = (torch.arange(INSIDE, device=offset.device) + 0.5) / INSIDE - 0.5
    away = (offset.unsqueeze(2) - rearrange(places, "i -> 1 1 i 1 1")).abs()
    return (1 - away / _APART).clamp(min=0)


def _slope(x: Tensor, dim: int) -> Tensor:
    """By what [m h w] changes along `dim` over the pixel, read half a pixel before and behind it, bicubically."""
    first, second = (_beyond(x, step, dim) - _beyond(x, -step, dim) for step in (1, 2))
    return 0.6875 * first - 0.09375 * second


def _beyond(x: Tensor, step: int, dim: int) -> Tensor:
    """`x` as it is `step` pixels further along `dim`, its last pixels repeated."""
    index = (torch.arange(x.shape[dim], device=x.device) + step).clamp(0, x.shape[dim] - 1)
    return x.index_select(dim, index)


def _around(x: Tensor) -> Tensor:
    """The mean of [... h w] over each pixel's neighbourhood."""
    flat = functional.pad(x.reshape(-1, 1, *x.shape[-2:]), [_REACH] * 4, mode="replicate")
    side = 2 * _REACH + 1
    return functional.avg_pool2d(functional.avg_pool2d(flat, (side, 1), 1), (1, side), 1).reshape(x.shape)


def _read_between(grey: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """`grey` [m 1 h w] read so far beside each pixel [m n h w], bicubically."""
    n, height, width = down.shape[1:]
    rows, columns = (torch.arange(size, device=grey.device, dtype=grey.dtype) for size in (height, width))
    place_y, place_x = rows[:, None] + down, columns + across
    grid = torch.stack(((2 * place_x + 1) / width - 1, (2 * place_y + 1) / height - 1), dim=-1)
    read = functional.grid_sample(
        repeat(grey, "m 1 h w -> (m n) 1 h w", n=n), rearrange(grid, "m n h w two -> (m n) h w two"),
        mode="bicubic", padding_mode="border", align_corners=False,
    )  # fmt: skip
    return rearrange(read, "(m n) 1 h w -> m n h w", n=n)
