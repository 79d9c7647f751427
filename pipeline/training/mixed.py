"""Clips of two sources in a fixed ratio: what a LoRA teaches, and what it must leave as it is."""

from collections.abc import Sequence
from dataclasses import fields
from fractions import Fraction
from math import floor
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.training.source import Clips, ClipSource, Key


class MixedClips(ClipSource):
    """Clips to learn, mixed with clips to keep.

    Args:
        taught, kept: the two sources, of the same size and rate.
        keep: the share of `kept`, spread evenly over the numbers of the clips.
    """

    def __init__(self, taught: ClipSource, kept: ClipSource, keep: float) -> None:
        self._taught, self._kept, self._keep, self.fps = taught, kept, keep, taught.fps

    def is_kept(self, number: int) -> bool:
        """Whether the clip with this number is one to keep."""
        return floor((number + 1) * self._keep) > floor(number * self._keep)

    @override
    def draw(self, key: Key, numbers: Sequence[int], seconds: Fraction, switch: float = 0.0) -> Clips:
        parts, order = [], []
        for source, own in self._shared_out(numbers):
            parts.append(source.draw(key, own, seconds, switch))
            order += own
        places = [order.index(number) for number in numbers]
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Clips)}
        return Clips(**{name: _in_order(column, places) for name, column in columns.items()})

    @override
    def sound(self, key: Key, numbers: Sequence[int], seconds: Fraction) -> Tensor:
        return self.draw(key, numbers, seconds).sound

    def _shared_out(self, numbers: Sequence[int]) -> list[tuple[ClipSource, list[int]]]:
        kept = [number for number in numbers if self.is_kept(number)]
        taught = [number for number in numbers if not self.is_kept(number)]
        return [(source, own) for source, own in ((self._taught, taught), (self._kept, kept)) if own]


def _in_order(column: Sequence[Any], places: Sequence[int]) -> Any:
    if isinstance(column[0], Tensor):
        return torch.cat(list(column))[list(places)]
    values = [value for part in column for value in part]
    return tuple(values[place] for place in places)
