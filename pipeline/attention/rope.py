"""Rotary position embedding over several axes, from computed float64 angles.

There is no table, so no position is too far; axis 0 is time in seconds, shared by every stream.
Source: Su et al., RoFormer (arXiv 2104.09864); axes share the head width as in Wan and LTX-Video.

Shapes: b batch, h heads, l tokens, d head width, a axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor


def geometric(fastest: float, slowest: float, count: int) -> tuple[float, ...]:
    """`count` angular frequencies (radians per unit) in geometric steps from `fastest` to `slowest`."""
    return tuple(fastest * (slowest / fastest) ** (i / max(count - 1, 1)) for i in range(count))


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of one stream's angles, float64, each [l, d/2]."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate `x` [b h l d]: channel i together with channel i + d/2; bfloat16 is rotated in float32."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        cos, sin = self.cos.to(x.device, dtype), self.sin.to(x.device, dtype)
        first, second = x.to(dtype).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


class Rope:
    """Turns positions into rotations.

    Args:
        frequencies: per axis, its angular frequencies in radians per unit (seconds on axis 0);
            twice their total number is the head width.
    """

    def __init__(self, frequencies: Sequence[Sequence[float]]) -> None:
        self._axes = [torch.tensor(axis, dtype=torch.float64) for axis in frequencies]
        self.head_dim = 2 * sum(len(axis) for axis in frequencies)

    def origin(self, num_tokens: int) -> Tensor:
        """Positions [l, a] of tokens that have none of their own."""
        return torch.zeros(num_tokens, len(self._axes), dtype=torch.float64)

    def rotation(self, positions: Tensor, shift_s: Fraction = Fraction(0)) -> Rotation:
        """The rotation for `positions` (float64 [l, a]), moved by `shift_s` seconds along the time axis."""
        assert positions.dtype == torch.float64, "positions lose hours in anything shorter than float64"
        columns = list(positions.cpu().unbind(dim=-1))
        columns[0] = columns[0] + float(shift_s)
        angles = torch.cat([torch.outer(c, axis) for c, axis in zip(columns, self._axes, strict=True)], dim=-1)
        return Rotation(angles.cos(), angles.sin())
