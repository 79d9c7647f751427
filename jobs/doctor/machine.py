"""The checks of GPUs, CPU cores, memory and shared memory."""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil

from longtake.jobs.doctor.finding import Finding, gib


def check_gpus() -> Iterator[Finding]:
    """All CUDA devices that torch sees can compute; no device is fine, unless the machine has a GPU driver."""
    import torch

    driver = _nvidia_driver()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available and driver is None:
        yield Finding("gpu", "ok", "none; the built-in models render on CPU cores")
    elif not available:
        seen = (
            f"driver {driver} is installed, but torch sees no device: {said[-1].message if said else 'no reason given'}"
        )
        fix = f"use a driver that supports CUDA {torch.version.cuda}; in a container, --gpus all"
        yield Finding("gpu", "FAIL", seen, f"{fix}; CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}")
    for index in range(torch.cuda.device_count() if available else 0):
        yield _gpu(index, driver)


def _gpu(index: int, driver: str | None) -> Finding:
    import torch

    name = torch.cuda.get_device_name(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
        torch.ones(8, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        fix = f"free or hide the GPU (CUDA_VISIBLE_DEVICES); torch is built for {', '.join(torch.cuda.get_arch_list())}"
        return Finding("gpu", "FAIL", f"{index}: {name} does not compute: {str(error).splitlines()[0]}", fix)
    seen = f"{index}: {name}, {gib(free)} of {gib(total)} free, driver {driver}, CUDA {torch.version.cuda}"
    if free < total / 2:
        return Finding("gpu", "warn", seen, "run nvidia-smi to see which processes use the rest")
    return Finding("gpu", "ok", seen)


def check_cores() -> Iterator[Finding]:
    """The CPU cores that this process may use, and the free memory."""
    import torch

    machine, allowed, quota = os.cpu_count() or 1, len(os.sched_getaffinity(0)), _cpu_quota()
    cores = min(allowed, quota or allowed)
    memory = psutil.virtual_memory()
    seen = (
        f"{cores:g} of {machine} cores, torch uses {torch.get_num_threads()} threads by default,"
        f" {gib(memory.available)} of {gib(memory.total)} memory free"
    )
    if cores < machine:
        fix = f"Ray would count {machine} cores; start the cluster with ray start --num-cpus={max(1, int(cores))}"
        yield Finding("cores", "warn", seen, fix)
    elif cores < 2:
        yield Finding("cores", "warn", seen, "stages overlap only with two cores or more; render with --in-process")
    else:
        yield Finding("cores", "ok", seen)


def check_shared_memory() -> Iterator[Finding]:
    """/dev/shm is large enough for Ray's object store (30% of the memory), which is on disk and slow otherwise."""
    wanted = int(0.3 * psutil.virtual_memory().available)
    free = shutil.disk_usage("/dev/shm").free
    seen = f"{gib(free)} free in /dev/shm, Ray reserves {gib(wanted)}"
    if free < wanted:
        fix = f"docker run --shm-size={wanted / 1e9:.1f}g, or ray start --object-store-memory={int(0.9 * free)}"
        yield Finding("shared memory", "warn", seen, fix)
    else:
        yield Finding("shared memory", "ok", seen)


def _nvidia_driver() -> str | None:
    """The version of the kernel driver, such as 580.95.05; None without a driver."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")


def _cpu_quota() -> float | None:
    """The number of cores that the control group (version 2) allows; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)
