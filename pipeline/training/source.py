"""Where clips come from: the world of sounding shapes, or a folder of real ones.

Shapes: b clips, f frames, h w pixels, n samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from torch import Tensor

Key = tuple[int, int]
"""Seed and step: what a draw depends on, beside the numbers of the clips."""


@dataclass(frozen=True)
class Clips:
    """A batch of clips.

    Args:
        frames: in -1..1 [b f 3 h w].
        sound: in -1..1 [b n].
        near: 1 where pictures matter most, at what moves, else 0 [b f h w].
        prompts: of each clip, as it ends.
        since_s: from when each prompt holds; what comes before belongs to another one.
    """

    frames: Tensor
    sound: Tensor
    near: Tensor
    prompts: tuple[str, ...]
    since_s: tuple[float, ...]


class ClipSource(Protocol):
    """An endless supply of clips, numbered from 0 for every key.

    Attributes:
        fps: frames per second of what it gives.
    """

    fps: Fraction

    def draw(self, key: Key, numbers: Sequence[int], seconds: Fraction, switch: float = 0.0) -> Clips:
        """Clips of `seconds`; in a share `switch` of them the prompt changes once, on a whole second."""
        ...

    def sound(self, key: Key, numbers: Sequence[int], seconds: Fraction) -> Tensor:
        """The sound alone of such clips [b n]."""
        ...
