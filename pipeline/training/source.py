"""The interface of clip sources: the synthetic worlds, or a folder of footage.

Shapes: b clips, f frames, h w pixels, n samples, m channels of stereo sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from torch import Tensor

Key = tuple[int, int]
"""Seed and step; with the numbers of the clips, they determine a draw."""


@dataclass(frozen=True)
class Clips:
    """A batch of clips.

    Args:
        frames: in -1..1 [b f 3 h w].
        sound: in -1..1, mono [b n] or stereo [b m n].
        near: 1 near moving objects, which weigh more in the loss, else 0 [b f h w].
        prompts: the prompt at the end of each clip.
        since_s: the time from which that prompt holds; earlier frames belong to another prompt.
    """

    frames: Tensor
    sound: Tensor
    near: Tensor
    prompts: tuple[str, ...]
    since_s: tuple[float, ...]


class ClipSource(Protocol):
    """An endless supply of clips, numbered from 0 for every key.

    Attributes:
        fps: frames per second of the clips.
    """

    fps: Fraction

    def draw(self, key: Key, numbers: Sequence[int], seconds: Fraction, switch: float = 0.0) -> Clips:
        """Clips of `seconds`; in a share `switch` of them the prompt changes once, on a whole second."""
        ...

    def sound(self, key: Key, numbers: Sequence[int], seconds: Fraction) -> Tensor:
        """The sound of the clips that `draw` returns, [b n] or [b m n]."""
        ...
