"""Random weights that depend only on a seed, in any thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_SEEDING = Lock()
"""PyTorch's default generator is shared by the process, so one model is initialised at a time."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's default CPU generator inside the block and restore it afterwards."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
