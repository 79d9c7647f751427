"""Pulses: how actors are, asked by a process whose questions never stand in line behind chunks.

Ray sends the calls of one process to an actor in order, whatever their concurrency groups: a driver's question reaches
a decoder only once it has the latents that an earlier call waits for (ray-project/ray#52825, seen with 2.60). So a task
asks, and whoever waits for a wedged denoiser is not taken for wedged too.
"""

from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError


class Heartbeat(NamedTuple):
    """How an actor is: seconds in its present call, 0 without one; whether its latest call raised; where it runs."""

    busy_s: float
    failed: bool
    node: str
    pid: int


def heartbeats(groups: Mapping[str, Sequence[ActorHandle]], timeout_s: float) -> dict[str, list[Heartbeat] | None]:
    """How the actors of all posts are, asked at once; None for posts where somebody does not answer in time, or ever.

    Whoever is asked must not have been given calls by this process that wait; see `heartbeats_from_task`.

    Args:
        posts: their actors, by name.
        timeout_s: for all answers together.
    """
    asked = {name: [actor.heartbeat.remote() for actor in actors] for name, actors in groups.items()}
    return dict(_answers(asked, monotonic() + timeout_s))


def heartbeats_from_task(
    groups: Mapping[str, Sequence[ActorHandle]], timeout_s: float, start_s: float
) -> dict[str, list[Heartbeat] | None]:
    """`heartbeats`, asked by a process of its own; by this one where that does not stand within `start_s` more."""
    try:
        heartbeats: dict[str, list[Heartbeat] | None] = ray.get(
            _ask.remote(groups, timeout_s), timeout=start_s + timeout_s
        )
    except RayError:
        return heartbeats(groups, timeout_s)  # who is taken for wedged by mistake is replaced; nobody waits for ever
    return heartbeats


@ray.remote(num_cpus=0)
def _ask(groups: Mapping[str, Sequence[ActorHandle]], timeout_s: float) -> dict[str, list[Heartbeat] | None]:
    return heartbeats(groups, timeout_s)


def _answers(asked: Mapping[str, list[ObjectRef]], until: float) -> Iterator[tuple[str, list[Heartbeat] | None]]:
    for name, refs in asked.items():
        try:
            yield name, ray.get(refs, timeout=max(0.0, until - monotonic()))
        except RayError:
            yield name, None
