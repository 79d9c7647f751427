"""Whether a cluster can hold the actors of a render: what it can never hold is refused at once."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from longtake.actors.nodes import may_grow
from longtake.actors.pool_config import Resources
from longtake.pipeline.errors import CapacityError

MOST_PROCESSES = 64
"""Processes that any machine can be asked for; those with many cores, for more."""


def wait_for(wanted: Resources) -> str | None:
    """What the actors have to wait for on the cluster that this process has joined, as a sentence; None if nothing.

    Raises:
        CapacityError: the cluster can never hold them.
    """
    reason = shortage(wanted, ray.nodes())
    if reason is not None:
        return reason
    free: dict[str, float] = ray.available_resources()
    return None if _holds(free, _total(wanted)) else f"waiting for {_words(_total(wanted))}: {_words(free)} are free"


def check_processes(count: int, asked: str) -> None:
    """Raise `CapacityError` for more processes that compute than a cluster of this machine alone should start.

    Args:
        asked: the flags that ask for them, in words.
    """
    cores = os.cpu_count() or 1
    if count > (most := max(MOST_PROCESSES, 8 * cores)):
        raise CapacityError(
            f"{asked}: {count} processes on this machine of {cores} cores; use at most {most}, or join a cluster"
            " (--address)"
        )


def lack_until_it_grows(wanted: Resources) -> str | None:
    """What the cluster that this process has joined lacks at the moment, as a sentence; None if it has enough."""
    try:
        return shortage(wanted, ray.nodes())
    except CapacityError as error:
        return str(error)


def shortage(wanted: Resources, nodes: Sequence[Mapping[str, Any]]) -> str | None:
    """What a cluster of these nodes lacks and may still get, as a sentence; None if it has enough.

    Raises:
        CapacityError: it lacks something, and no more nodes will come.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    total = {name: sum(node.get(name, 0) for node in alive) for name in ("CPU", "GPU")}
    largest = max((wanted.bundle(act) for act in wanted.cpus), key=lambda bundle: bundle["CPU"])
    if not _holds(total, _total(wanted)):
        lack = f"the actors ask for {_words(_total(wanted))}, and the cluster has {_words(total)}"
    elif not any(_holds(node, largest) for node in alive):
        lack = f"an actor asks for {_words(largest)}, and no node of the cluster has as many"
    else:
        return None
    if may_grow(nodes):
        return f"{lack}; waiting for more nodes"
    gpu = ", or --device cpu" if wanted.num_gpus else ""
    raise CapacityError(f"{lack}; use fewer --ranks, --gangs or --threads{gpu}, or a larger cluster")


def _total(wanted: Resources) -> dict[str, float]:
    return {"CPU": wanted.num_cpus, "GPU": wanted.num_gpus}


def _holds(has: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(has.get(name, 0) >= amount - 1e-6 for name, amount in wanted.items())


def _words(resources: Mapping[str, float]) -> str:
    gpus = f" and {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
    return f"{resources.get('CPU', 0):g} CPUs{gpus}"
