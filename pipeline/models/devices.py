"""Device and threads of a process, deterministic kernels on GPUs, and copies that run without waiting."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from longtake.pipeline.errors import CapacityError, SpecError

DEVICES = ("cpu", "cuda")
MOST_THREADS = 256
"""Compute threads that any machine can be asked for; those with many cores, for more."""


def check_device(device: str, here: bool = True, known: Sequence[str] = DEVICES) -> None:
    """Raise an error unless `device` is one of `known`, and, if `here`, available in this process."""
    if device not in known:
        raise SpecError(f"--device is {device!r}; use {' or '.join(known)}")
    if here and device == "cuda" and not torch.cuda.is_available():
        raise CapacityError("--device is cuda, but PyTorch finds no GPU in this process; use --device cpu")


def check_threads(threads: int) -> None:
    """Raise `SpecError` for more compute threads than this machine can be asked to start."""
    cores = os.cpu_count() or 1
    if threads > (most := max(MOST_THREADS, 8 * cores)):
        raise SpecError(f"--threads is {threads}, and this machine has {cores} cores; use at most {most}")


def settle(threads: int, device: str) -> None:
    """Set the number of compute threads, and on a GPU choose deterministic kernels.

    Raises:
        SpecError: they are far too many threads; see `check_threads`.
    """
    check_threads(threads)
    torch.set_num_threads(threads)
    if device != "cpu":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`; the host does not wait until it has arrived."""
    if torch.device(device).type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return (x.pin_memory() if torch.cuda.is_available() else x).to(device, non_blocking=True)
