"""Join a Ray cluster or start one, for several calls."""

from collections.abc import Iterator
from contextlib import contextmanager

from longtake.actors.cluster import joined


@contextmanager
def cluster(address: str | None = None, *, num_cpus: float = 2) -> Iterator[None]:
    """Keep one Ray cluster for all calls in the block; without it, each call on Ray starts a cluster and ends it.

    Args:
        address: of a cluster to join, such as "10.0.0.1:6379" or "auto"; None joins the cluster of `RAY_ADDRESS`, or
            starts one on this machine that ends with the block.
        num_cpus: CPUs that a new cluster offers at least, however few cores the machine has. A render needs its threads
            for each rank, and two for the other stages.
    """
    with joined(address, num_cpus):
        yield
