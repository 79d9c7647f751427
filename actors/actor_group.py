"""The actors of one stage, which are replaced together. Most stages have one actor; a gang has one per rank."""

from collections.abc import Sequence
from typing import Any

import ray
from typing_extensions import override

from longtake.actors.handles import Handle, Ref
from longtake.actors.heartbeat import Heartbeat, heartbeats
from longtake.actors.stage_actor import TakeConfig
from longtake.pipeline.stages.publish import Film


class ActorGroup:
    """Actors that run one stage.

    Args:
        name: the stage; "denoise 2" and so on for further gangs.
        actors: each runs every chunk, and the first returns its values.
        num_returns: how many values a chunk gives.
    """

    def __init__(self, name: str, actors: Sequence[Handle], num_returns: int = 1) -> None:
        self.name, self.actors = name, list(actors)
        self._num_returns = num_returns
        self._sentinels: list[Ref] = [actor.wait_until_exit.remote() for actor in actors]

    def start(self) -> list[Ref]:
        """References that are ready once every process runs."""
        return [actor.__ray_ready__.remote() for actor in self.actors]

    def open(self, config: TakeConfig) -> list[Ref]:
        """Have every actor build its stage for a take: references that are ready once it is built."""
        return [actor.open.remote(config) for actor in self.actors]

    def close(self) -> list[Ref]:
        """Have every actor release the take."""
        return [actor.close.remote() for actor in self.actors]

    def idle(self) -> list[Ref]:
        """References that are ready once every actor has finished its calls or is dead."""
        return [actor.idle.remote() for actor in self.actors]

    def remote(self, *arguments: Any) -> Any:
        """Run the stage on one chunk: references to its values."""
        values: list[Any] = [
            actor.run.options(num_returns=self._num_returns).remote(*arguments) for actor in self.actors
        ]
        return values[0]

    def died(self) -> bool:
        """Whether an actor is known to be dead; sends no probe."""
        return bool(ray.wait(self._sentinels, num_returns=1, timeout=0)[0])

    def heartbeats(self, timeout_s: float) -> list[Heartbeat] | None:
        """Heartbeats of all actors, which must be idle; None where an actor does not answer in time."""
        return heartbeats({self.name: self.actors}, timeout_s)[self.name]

    def kill(self) -> None:
        """Kill all actors at once."""
        for actor in self.actors:
            ray.kill(actor)


class PublisherGroup(ActorGroup):
    """The actor that publishes the film."""

    def position(self) -> Ref:
        """A reference to the index of the first chunk that the film lacks."""
        position: Ref = self.actors[0].position.remote()
        return position

    def finish(self) -> "ray.ObjectRef[Film]":
        """Finish the film, once every chunk is published: a reference to it."""
        film: ray.ObjectRef[Film] = self.actors[0].finish.remote()
        return film


class PassThrough(ActorGroup):
    """A stage that a film does without: no actors, and values pass unchanged."""

    def __init__(self, name: str) -> None:
        super().__init__(name, actors=())

    @override
    def remote(self, *arguments: Any) -> Any:
        return arguments[0]

    @override
    def died(self) -> bool:
        return False
