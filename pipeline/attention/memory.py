"""Tensors that are the same memory, and what was made of them: for values that do not change from pass to pass.

Values are never compared, since the host would have to wait for the device. Tensors of the pipeline are not written
again once they are made, so the same memory holds the same values.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

PROMPTS = 4
"""Prompts that passes read in turn: those of the branches of guidance, each with the LoRAs of some noise levels."""


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether both tensors show the same elements of the same memory."""
    return one is other or (one.dtype == other.dtype and one.is_set_to(other))


class Latest(Generic[T]):
    """What was made of the latest tensors, so that it is made once while they stay.

    Args:
        count: how many results are kept.
    """

    def __init__(self, count: int = 1) -> None:
        self._count = count
        self._kept: list[tuple[Tensor, Hashable, T]] = []

    def of(self, source: Tensor, also: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, which depends on nothing but `source` and `also`; made each time if gradients are on."""
        if torch.is_grad_enabled():
            return make()
        key = (also, torch.is_inference_mode_enabled())  # tensors of inference cannot be trained through
        for known, other_key, made in self._kept:
            if other_key == key and same_memory(known, source):
                return made
        made = make()
        self._kept = [*self._kept, (source, key, made)][-self._count :]
        return made
