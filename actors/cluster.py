"""Join a Ray cluster, or start one on this machine for as long as it is needed."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from math import ceil
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from longtake.actors.address import HOW_TO, LOCAL, from_environment, named, reachable, written
from longtake.actors.ray_signals import own_signals
from longtake.actors.temp_folder import check_ray_folder
from longtake.actors.worker_start import ForkServers
from longtake.pipeline.errors import SpecError

LOG = logging.getLogger("longtake.cluster")
"""Ray logs from the level on that is set here; from `INFO` on, the logs of actors are shown too. Otherwise only errors
are."""

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


_FORKS: list[ForkServers] = []  # of the cluster that this process uses, if any


def joins(address: str | None) -> bool:
    """Whether `joined` connects to a cluster that exists, rather than starting one."""
    if written(address) is not None:
        return written(address) != LOCAL
    return ray.is_initialized() or "RAY_JOB_ID" in os.environ or from_environment() is not None


def cluster_note(address: str | None) -> str | None:
    """A sentence for users whose environment, and not their command, names the cluster to join; else None."""
    there = from_environment()
    if written(address) is not None or there is None or "RAY_JOB_ID" in os.environ or ray.is_initialized():
        return None
    return f"RAY_ADDRESS is {there}: joining that cluster; for one on this machine, add --address {LOCAL}"


@contextmanager
def joined(address: str | None, num_cpus: float = 2, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Connect to the cluster at `address`; without one, to the cluster that this process has joined or that this job
    runs on, or else to a new one on this machine.

    A new cluster has no dashboard and ends with the block. It declares at least `num_cpus` to Ray, however few cores
    the machine has.

    Args:
        address: "local" is a new cluster in any case.
        env: environment variables of the actors that are started first; what they import is then imported while a new
            cluster starts.

    Raises:
        SpecError: no cluster answers at the address.
    """
    if written(address) is None and ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of calls that were in flight when an actor died
    if joins(address):
        _connect(address)
        with _forked_workers(ForkServers()):
            yield
    else:
        with local_cluster(
            env,
            num_cpus=max(ceil(num_cpus), os.cpu_count() or 1),
            logging_level=LOG.level or logging.ERROR,
            log_to_driver=_shows_actors(),
        ):
            yield


@contextmanager
def local_cluster(env: Mapping[str, str] | None = None, **options: Any) -> Iterator[None]:
    """Start a cluster on this machine, without a dashboard, for the length of the block.

    Args:
        env: see `joined`.
        options: of `ray.init`.

    Raises:
        SpecError: the folder for temporary files cannot hold Ray's sockets.
    """
    if "_temp_dir" not in options:
        check_ray_folder()
    for name, value in OWN_CLUSTER.items():
        os.environ.setdefault(name, value)
    with closing(ForkServers(env)) as forks:
        with own_signals():
            ray.init(LOCAL, include_dashboard=False, **options)  # never one that happens to run on this machine
        with _forked_workers(forks):
            yield


def worker_command(env: Mapping[str, str]) -> str | None:
    """How Ray starts an actor with these environment variables faster than by a new Python, as `py_executable`.

    None on clusters of several machines.
    """
    return _FORKS[-1].command(env) if _FORKS else None


@contextmanager
def _forked_workers(forks: ForkServers) -> Iterator[None]:
    """Let these servers start the actors of the cluster that this process has joined, which it leaves at the end."""
    with closing(forks):
        _FORKS.append(forks)
        try:
            yield
        finally:
            _FORKS.remove(forks)
            ray.shutdown()


def _connect(address: str | None) -> None:
    place = reachable(address)
    try:
        with own_signals():
            ray.init(address=place, log_to_driver=_shows_actors(), logging_level=LOG.level or logging.ERROR)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        why = " ".join(str(error).split())
        if why.startswith("Version mismatch"):
            fix = "use the cluster's versions of Ray and Python (deploy/Dockerfile), or longtake submit"
        elif isinstance(error, AuthenticationError):
            fix = "put the cluster's token into RAY_AUTH_TOKEN, or into the file that RAY_AUTH_TOKEN_PATH names"
        else:
            fix = HOW_TO
        raise SpecError(f"{named(address)}, and no Ray cluster can be joined there: {why}; {fix}") from error


def _shows_actors() -> bool:
    return logging.NOTSET < LOG.level <= logging.INFO
