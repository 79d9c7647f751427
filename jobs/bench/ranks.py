"""Processes on this machine for benches and tests, without Ray: ranks of a gang, or workers that are independent.

They are forked from a server that has imported torch and everything else once, since each import takes seconds. The
server has no threads, so that forking is safe.
"""

import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@cache
def fork_server() -> ForkServerContext:
    """How processes are started; the server imports what this process has imported by the first call."""
    context = get_context("forkserver")
    context.set_forkserver_preload(
        [name for name in sys.modules if name.split(".")[0] == "diffusers" or name.startswith("longtake.pipeline.")]
    )
    return context


def run_ranks(task: Callable[[int], T], num_ranks: int) -> list[T]:
    """What `task(rank)` returns on each of `num_ranks` processes of one thread each, connected by gloo.

    Args:
        task: a function of a module, or a `partial` of one.
        num_ranks: how many.
    """
    with (
        tempfile.TemporaryDirectory(prefix="longtake-ranks-") as folder,
        ProcessPoolExecutor(num_ranks, mp_context=fork_server()) as pool,
    ):
        return list(pool.map(partial(_run, task, num_ranks, Path(folder) / "meeting"), range(num_ranks)))


def _run(task: Callable[[int], T], num_ranks: int, meeting: Path, rank: int) -> T:
    import torch

    from longtake.pipeline.parallel.context_parallel import joined

    torch.set_num_threads(1)
    with joined(rank, num_ranks, meeting, timeout_s=600):
        return task(rank)
