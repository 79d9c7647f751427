"""Where and how a process computes: a device that is there, threads, and on a GPU the same way every time."""

import torch

from longtake.pipeline.errors import CapacityError, SpecError

DEVICES = ("cpu", "cuda")


def check_device(device: str, here: bool = True) -> None:
    """Raise an error unless `device` can be computed on: by this process, if `here`."""
    if device not in DEVICES:
        raise SpecError(f"--device is {device!r}; use {' or '.join(DEVICES)}")
    if here and device == "cuda" and not torch.cuda.is_available():
        raise CapacityError("--device is cuda, but PyTorch finds no GPU in this process; use --device cpu")


def settle(threads: int, device: str) -> None:
    """Have this process compute with so many threads, and on a GPU the same way every time."""
    torch.set_num_threads(threads)
    if device != "cpu":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
