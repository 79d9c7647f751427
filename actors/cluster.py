"""Join a Ray cluster, or start one on this machine for as long as it is needed."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import ray

OWN_CLUSTER = {
    "RAY_worker_niceness": "0",  # Ray's default is 15: behind everything else on the machine
    "RAY_max_direct_call_object_size": str(2**20),  # smaller values travel with the call, not by shared memory
    # Only a dashboard or Ray's own developers would read these:
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
"""Settings of a cluster that this process starts. Its processes read them from the environment; a value that is set
already stays."""


@contextmanager
def joined(address: str | None, num_cpus: float = 2) -> Iterator[None]:
    """Connect to the cluster at `address`; without one, to the cluster that this process has joined or that this job
    runs on, or else to a new one on this machine.

    A new cluster has no dashboard and ends with the block. It declares at least `num_cpus` to Ray, however few cores
    the machine has.
    """
    if address is None and ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of calls that were in flight when an actor died
    if address is None and "RAY_JOB_ID" not in os.environ and "RAY_ADDRESS" not in os.environ:
        for name, value in OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
        ray.init(
            "local",  # never one that happens to run on this machine
            num_cpus=max(ceil(num_cpus), os.cpu_count() or 1),
            include_dashboard=False,
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    else:
        ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
