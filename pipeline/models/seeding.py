"""Random weights that depend on a seed alone, whichever thread makes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_SEEDING = Lock()
"""PyTorch's seed belongs to the process, so one model is made at a time."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, whatever PyTorch draws depends on `seed` alone; outside, nothing of it is seen."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
