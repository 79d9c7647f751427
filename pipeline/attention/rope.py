"""Rotary position embedding over several axes, from computed float64 angles.

There is no table, so no position is too far; axis 0 is time in seconds, shared by every stream.
Source: Su et al., RoFormer (arXiv 2104.09864); axes share the head width as in Wan and LTX-Video.

Shapes: b batch, h heads, l tokens, d head width, a axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from einops import rearrange
from torch import Tensor

from longtake.pipeline.attention.fused import rotated
from longtake.pipeline.attention.shares import Share


def geometric(fastest: float, slowest: float, count: int) -> tuple[float, ...]:
    """`count` angular frequencies (radians per unit) in geometric steps from `fastest` to `slowest`."""
    return tuple(fastest * (slowest / fastest) ** (i / max(count - 1, 1)) for i in range(count))


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of one stream's angles, float64, each [h l d/2]; h is 1 if all heads have the same.

    Args:
        interleaved: see `Rope`.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool = False
    _as: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate `x` [b h l d]; channels i and i + d/2 of the result are a pair. bfloat16 is rotated in float32."""
        return rotated(
            x, *self._placed(x.device, torch.promote_types(x.dtype, torch.float32)), interleaved=self.interleaved
        )

    @property
    def again(self) -> "Rotation":
        """The same for vectors that were rotated before."""
        return replace(self, interleaved=False) if self.interleaved else self

    def for_heads(self, heads: Share) -> "Rotation":
        """The rotation of some of the heads."""
        if len(self.cos) == 1:
            return self
        own = heads.of(len(self.cos))
        return Rotation(self.cos[own.start : own.stop], self.sin[own.start : own.stop], self.interleaved)

    def _placed(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines as `fused.rotated` reads them; made once, since every layer reads the same."""
        if (device, dtype) not in self._as:
            cos, sin = self.cos.to(device, dtype), self.sin.to(device, dtype)
            self._as[device, dtype] = (cos.unsqueeze(-2), torch.stack((-sin, sin), dim=-2))
        return self._as[device, dtype]


class Rope:
    """Makes rotations from positions. Every pair of channels is rotated along one axis.

    Args:
        frequencies: angular frequency of every pair of channels in radians per unit (seconds on axis 0), float64
            [h d/2]; h is 1 if all heads have the same.
        axes: the axis of each frequency, [h d/2].
        num_axes: of a position.
        interleaved: whether channels 2i and 2i + 1 are a pair, instead of i and i + d/2.
    """

    def __init__(self, frequencies: Tensor, axes: Tensor, num_axes: int, interleaved: bool = False) -> None:
        assert frequencies.dtype == torch.float64, "angles lose hours in anything shorter than float64"
        self._on = {frequencies.device: (frequencies, axes)}
        self._num_axes, self._interleaved = num_axes, interleaved
        self.head_dim = 2 * frequencies.shape[-1]

    @classmethod
    def of_axes(cls, frequencies: Sequence[Sequence[float]], interleaved: bool = False) -> "Rope":
        """The same for all heads, the head width divided among the axes: per axis, the frequencies of its channels."""
        flat = [frequency for axis in frequencies for frequency in axis]
        axes = [number for number, axis in enumerate(frequencies) for _ in axis]
        return cls(torch.tensor([flat], dtype=torch.float64), torch.tensor([axes]), len(frequencies), interleaved)

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
        return Rotation(angles.cos(), angles.sin(), self._interleaved)


Ropes = Rope | Mapping[str, Rope]
"""One rope for all sites, or one for each kind of site."""


def rope_of(ropes: Ropes, kind: str) -> Rope:
    """The rope of sites of that kind."""
    return ropes if isinstance(ropes, Rope) else ropes[kind]
