"""Rotary position embedding over several axes, from computed float64 angles.

There is no table, so no position is too far; axis 0 is time in seconds, shared by every stream.
Source: Su et al., RoFormer (arXiv 2104.09864); axes share the head width as in Wan and LTX-Video.

Shapes: b batch, h heads, l tokens, d head width, a axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from einops import rearrange
from torch import Tensor

from longtake.pipeline.attention.shares import Share


def geometric(fastest: float, slowest: float, count: int) -> tuple[float, ...]:
    """`count` angular frequencies (radians per unit) in geometric steps from `fastest` to `slowest`."""
    return tuple(fastest * (slowest / fastest) ** (i / max(count - 1, 1)) for i in range(count))


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of one stream's angles, float64, each [h l d/2]; h is 1 if all heads have the same."""

    cos: Tensor
    sin: Tensor
    _as: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate `x` [b h l d]: channel i together with channel i + d/2; bfloat16 is rotated in float32."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        if (x.device, dtype) not in self._as:  # once: every layer needs the same
            self._as[x.device, dtype] = (self.cos.to(x.device, dtype), self.sin.to(x.device, dtype))
        cos, sin = self._as[x.device, dtype]
        first, second = x.to(dtype).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)

    def for_heads(self, heads: Share) -> "Rotation":
        """The rotation of some of the heads."""
        if len(self.cos) == 1:
            return self
        own = heads.of(len(self.cos))
        return Rotation(self.cos[own.start : own.stop], self.sin[own.start : own.stop])


class Rope:
    """Makes rotations from positions. Every pair of channels is rotated along one axis.

    Args:
        frequencies: angular frequency of every pair of channels in radians per unit (seconds on axis 0), float64
            [h d/2]; h is 1 if all heads have the same.
        axes: the axis of each frequency, [h d/2].
        num_axes: of a position.
    """

    def __init__(self, frequencies: Tensor, axes: Tensor, num_axes: int) -> None:
        assert frequencies.dtype == torch.float64, "angles lose hours in anything shorter than float64"
        self._on = {frequencies.device: (frequencies, axes)}
        self._num_axes = num_axes
        self.head_dim = 2 * frequencies.shape[-1]

    @classmethod
    def of_axes(cls, frequencies: Sequence[Sequence[float]]) -> "Rope":
        """The same for all heads, the head width divided among the axes: per axis, the frequencies of its channels."""
        flat = [frequency for axis in frequencies for frequency in axis]
        axes = [number for number, axis in enumerate(frequencies) for _ in axis]
        return cls(torch.tensor([flat], dtype=torch.float64), torch.tensor([axes]), len(frequencies))

    def origin(self, num_tokens: int, device: torch.device | str = "cpu") -> Tensor:
        """Positions [l a] of tokens without their own."""
        return torch.zeros(num_tokens, self._num_axes, dtype=torch.float64, device=device)

    def rotation(self, positions: Tensor, shift_s: Fraction = Fraction(0)) -> Rotation:
        """The rotation for `positions` (float64 [l a]), moved by `shift_s` seconds along the time axis;
        computed on their device."""
        assert positions.dtype == torch.float64, "positions lose hours in anything shorter than float64"
        if positions.device not in self._on:  # once per device
            frequencies, axes = next(iter(self._on.values()))
            self._on[positions.device] = (frequencies.to(positions.device), axes.to(positions.device))
        frequencies, axes = self._on[positions.device]
        moved = positions.clone()
        moved[:, 0] += float(shift_s)
        angles = rearrange(moved[:, axes], "l h d -> h l d") * frequencies.unsqueeze(1)
        return Rotation(angles.cos(), angles.sin())


Ropes = Rope | Mapping[str, Rope]
"""One rope for all sites, or one for each kind of site."""


def rope_of(ropes: Ropes, kind: str) -> Rope:
    """The rope of sites of that kind."""
    return ropes if isinstance(ropes, Rope) else ropes[kind]
