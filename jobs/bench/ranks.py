"""Ranks of a gang as plain processes on this machine, without Ray: for benches and tests."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def run_ranks(act: Callable[[int], T], num_ranks: int) -> list[T]:
    """What `act(rank)` returns on each of `num_ranks` processes of one thread each, which have met over gloo.

    Args:
        act: a function of a module, or a `partial` of one.
        num_ranks: how many.
    """
    with (
        tempfile.TemporaryDirectory(prefix="longtake-ranks-") as folder,
        ProcessPoolExecutor(num_ranks, mp_context=get_context("spawn")) as pool,
    ):
        return list(pool.map(partial(_run, act, num_ranks, Path(folder) / "meeting"), range(num_ranks)))


def run_apart(act: Callable[[int], T], num_processes: int) -> list[T]:
    """What `act(index)` returns on each of `num_processes` processes of one thread each, which know nothing of each
    other."""
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(partial(_run_apart, act), range(num_processes)))


def _run(act: Callable[[int], T], num_ranks: int, meeting: Path, rank: int) -> T:
    import torch

    from longtake.pipeline.parallel.context_parallel import joined

    torch.set_num_threads(1)
    with joined(rank, num_ranks, meeting, timeout_s=600):
        return act(rank)


def _run_apart(act: Callable[[int], T], index: int) -> T:
    import torch

    torch.set_num_threads(1)
    return act(index)
