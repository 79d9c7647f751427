"""Joining a Ray cluster, or starting one on this machine for as long as it is needed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import ray

OWN_CLUSTER = {
    "RAY_worker_niceness": "0",  # Ray's default is 15: behind everything else on the machine
    "RAY_max_direct_call_object_size": str(2**20),  # what is smaller travels with the call, not by shared memory
    # What only a dashboard or the makers of Ray would look at:
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
"""Settings of a cluster of our own, which its processes read from the environment; whoever has set one keeps it."""


@contextmanager
def joined(address: str | None, num_cpus: float = 2) -> Iterator[None]:
    """Be connected to the cluster at `address`; without one, to the one that this process has joined or that this job
    runs on, or else to one of our own.

    A cluster of our own has at least `num_cpus` for Ray to place by, however few cores there are, no dashboard, and
    ends with the block.
    """
    if address is None and ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of what was in flight when somebody died
    if address is None and "RAY_JOB_ID" not in os.environ and "RAY_ADDRESS" not in os.environ:
        for name, value in OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
        ray.init(
            num_cpus=max(ceil(num_cpus), os.cpu_count() or 1),
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
