"""Fixtures that every room's tests share."""

import tempfile
import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# How fast examples are drawn is a property of the machine and of what else it does, not of what is tested.
settings.register_profile("longtake", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("longtake")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Compute threads are part of a film's bits: whoever changes them must not change the next test's film."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of four CPUs, started once (about 5 s) and only if a test asks for it.

    Its files lie in a folder of its own with a short name, since the paths of its sockets must stay below 108 bytes.
    """
    import ray

    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray's own making, such as on how it will treat GPUs one day
            ray.init(
                "local",  # never one that this machine happens to run
                num_cpus=4,
                include_dashboard=False,
                object_store_memory=256 * 2**20,
                _temp_dir=folder,
                logging_level="ERROR",
                log_to_driver=False,
            )
        yield
        ray.shutdown()
