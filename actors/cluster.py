"""Joining a Ray cluster, or starting one on this machine for as long as it is needed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at `address`, to the one that this job runs on, or else to one of our own.

    A cluster of our own has at least two CPUs for Ray to place by, however few cores there are, no dashboard, and ends
    with the block.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default is 15: behind everything else on the machine
    if address is None and "RAY_JOB_ID" not in os.environ and "RAY_ADDRESS" not in os.environ:
        ray.init(
            num_cpus=max(2, os.cpu_count() or 1),
            include_dashboard=False,
            configure_logging=True,
            logging_level="ERROR",
            log_to_driver=False,
        )
    else:
        ray.init(address=address or "auto", log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
