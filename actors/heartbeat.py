"""Heartbeats: health probes sent from a separate task, so that they never queue behind chunk calls.

Ray sends the calls of one process to an actor in order, whatever their concurrency groups: a probe from the driver
reaches a decoder only after the latents that an earlier call waits for (ray-project/ray#52825, seen with 2.60). A probe
from another process does not wait, so an actor that waits for a hung denoiser is not taken for hung too.
"""

from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

import ray
from ray.exceptions import RayError

from longtake.actors.handles import Handle, Ref, runtime_env


class Heartbeat(NamedTuple):
    """State of an actor.

    Args:
        busy_s: seconds in its present call; 0 without one.
        failed: whether its latest call raised.
        node: the id of the node that it runs on.
    """

    busy_s: float
    failed: bool
    node: str
    pid: int


Heartbeats = dict[str, list[Heartbeat] | None]
"""By the name of the actor group; None where an actor of the group did not answer in time."""


def heartbeats(groups: Mapping[str, Sequence[Handle]], timeout_s: float) -> Heartbeats:
    """Probe the actors of all groups at once.

    No call of this process may be waiting at any of them; see `heartbeats_from_task`.

    Args:
        groups: actors by the name of their group.
        timeout_s: for all answers together.
    """
    probes = {name: [actor.heartbeat.remote() for actor in actors] for name, actors in groups.items()}
    return dict(_answers(probes, monotonic() + timeout_s))


def heartbeats_from_task(
    groups: Mapping[str, Sequence[Handle]], timeout_s: float, start_s: float, env: Mapping[str, str]
) -> Heartbeats:
    """`heartbeats`, sent by a task; by this process where the task does not start within another `start_s`.

    Args:
        env: environment variables of the task.
    """
    try:
        task = _probe.options(runtime_env=runtime_env(env))
        answers: Heartbeats = ray.get(task.remote(groups, timeout_s), timeout=start_s + timeout_s)
    except RayError:
        return heartbeats(groups, timeout_s)  # may report a waiting actor as hung: replaced, which costs time only
    return answers


@ray.remote(num_cpus=0)
def _probe(groups: Mapping[str, Sequence[Handle]], timeout_s: float) -> Heartbeats:
    return heartbeats(groups, timeout_s)


def _answers(probes: Mapping[str, list[Ref]], until: float) -> Iterator[tuple[str, list[Heartbeat] | None]]:
    for name, refs in probes.items():
        try:
            yield name, ray.get(refs, timeout=max(0.0, until - monotonic()))
        except RayError:
            yield name, None
