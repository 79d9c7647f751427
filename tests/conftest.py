"""What all tests share: compute threads, a local Ray cluster, and the order in which several processes run them."""

import os
import tempfile
import warnings
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any

# Before torch and numpy read it. Tests run in several processes at once, and models this small gain nothing from a
# second thread, which spins while it waits. The commands and clusters that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray starts a worker per CPU with every driver, but actors with an environment of their own, as ours, cannot use them.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# As in a cluster that longtake starts. Ray's default is 15: actors would wait behind the tests of other processes.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest
import torch
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadGroupScheduling

THREADS = int(os.environ["OMP_NUM_THREADS"])

# How fast examples are drawn is a property of the machine and of what else it does, not of what is tested.
settings.register_profile("longtake", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("longtake")


class FilesAndGroups(LoadGroupScheduling):
    """Gives each process a file at a time, so that its fixtures are made once, and keeps the tests of a group together.

    Tests of the group "ray" start clusters and actors. One process runs them all, one after another: each actor takes
    6 s of CPU time to start, and clusters that start at the same time miss the timeouts that are tested.
    """

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return scope.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesAndGroups | None:
    """Schedule by files and groups, unless another `--dist` is asked for."""
    return FilesAndGroups(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put users of the cluster into the group "ray", and start that first: it takes longest, and waits most."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("ray"))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Start every test with the same number of threads: it is part of a film's bits, and commands change it."""
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def same_priority() -> Iterator[None]:
    """Fail a test that leaves this process at another scheduling policy: it would starve the tests next to it."""
    before = os.sched_getscheduler(0)
    yield
    assert os.sched_getscheduler(0) == before


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    """Start every shared fixture with that number too, whichever test asks for it first, and leave that test's own."""
    if fixturedef.scope == "function":
        return (yield)
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return (yield)
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of eight CPUs, started once (about 5 s) and only if a test asks for it.

    Its files lie in a folder of its own with a short name, since the paths of its sockets must stay below 108 bytes.
    """
    from longtake.actors.cluster import local_cluster
    from longtake.actors.pool_config import actor_env

    with (
        tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray's own making, such as on how it will treat GPUs one day
            stack.enter_context(
                local_cluster(
                    actor_env(1),
                    num_cpus=8,
                    object_store_memory=256 * 2**20,
                    _temp_dir=folder,
                    logging_level="ERROR",
                    log_to_driver=False,
                )
            )
        yield


@pytest.fixture(scope="session")
def actor_pool(ray_cluster: None) -> Iterator[Any]:  # noqa: ARG001 (outlives this fixture)
    """An actor for every stage, one rank, shared by all tests that render on such a pool: it takes about 10 s to start.

    Actors that a test kills are replaced.
    """
    from longtake.actors.policy import RetryPolicy
    from longtake.actors.pool import ActorPool
    from longtake.actors.pool_config import PoolConfig, Timeouts
    from longtake.pipeline.registry import STAGES

    timeouts = Timeouts(start=120, exchange=5, chunk=8, heartbeat=5)
    with ActorPool(PoolConfig.of(timeouts=timeouts, acts=tuple(STAGES), retries=RetryPolicy(back_off_s=0.1))) as pool:
        yield pool
