"""A post: the actors that hold one act, replaced as a whole. Most hold one actor; a gang holds a rank each."""

from collections.abc import Sequence
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from longtake.actors.heartbeat import Heartbeat, heartbeats
from longtake.actors.stage_actor import CONTROL, StageActor, TakeConfig

CONTROL_CALLS = 2
"""Calls that an actor answers at once while its act is at work: `wait_until_exit`, and one `heartbeat`."""


def start_actor(
    actor: type[StageActor], *arguments: Any, cpus: float, gpus: float = 0.0, **options: Any
) -> ActorHandle:
    """Start an actor, which fails with its process and is not restarted in its place."""
    remote = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={CONTROL: CONTROL_CALLS})
    return remote(actor).options(num_cpus=cpus, num_gpus=gpus, **options).remote(*arguments)


class ActorGroup:
    """One act's actors.

    Args:
        name: the act.
        actors: who holds it.
        num_returns: how many values a chunk gives.
    """

    def __init__(self, name: str, actors: Sequence[ActorHandle], num_returns: int = 1) -> None:
        self.name, self.actors = name, list(actors)
        self._num_returns = num_returns
        self._sentinels = [actor.wait_until_exit.remote() for actor in actors]

    def start(self) -> list[ObjectRef]:
        """References that are there once every process stands."""
        return [actor.__ray_ready__.remote() for actor in self.actors]

    def open(self, order: TakeConfig) -> list[ObjectRef]:
        """Have everybody build the act for a take: references that are there once it is built."""
        return [actor.open.remote(order) for actor in self.actors]

    def close(self) -> list[ObjectRef]:
        """Have everybody let go of the take."""
        return [actor.close.remote() for actor in self.actors]

    def idle(self) -> list[ObjectRef]:
        """References that are there once everybody has done what they were asked, or is gone."""
        return [actor.idle.remote() for actor in self.actors]

    def remote(self, *arguments: Any) -> Any:
        """Run the act on one chunk: references to its values."""
        values, *_ = [actor.run.options(num_returns=self._num_returns).remote(*arguments) for actor in self.actors]
        return values

    def died(self) -> bool:
        """Whether anybody is known to be gone; asks nobody."""
        return bool(ray.wait(self._sentinels, num_returns=1, timeout=0)[0])

    def heartbeats(self, timeout_s: float) -> list[Heartbeat] | None:
        """How everybody is, who must have nothing to do; None where somebody does not answer in time, or ever."""
        return heartbeats({self.name: self.actors}, timeout_s)[self.name]

    def kill(self) -> None:
        """End everybody at once."""
        for actor in self.actors:
            ray.kill(actor)
