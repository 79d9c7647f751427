"""One stage as an actor: it builds its stage for a take, and then runs one chunk after another."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event
from time import monotonic
from typing import IO, Any

import ray
from typing_extensions import override

from longtake.actors import logs
from longtake.actors.event_log_actor import RemoteObserver
from longtake.actors.handles import Handle
from longtake.actors.heartbeat import Heartbeat
from longtake.actors.node_cache import on_this_node
from longtake.pipeline.acts import Act
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.keys import Parts
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import lend_hand
from longtake.pipeline.models.devices import check_device, settle
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import check_same, numerics
from longtake.pipeline.registry import STAGES, resolve
from longtake.pipeline.spec import Storyboard
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.weights.options import CPU, LoadOptions

CONTROL = "control"
CONTROL_GROUP = {CONTROL: 2}
"""The concurrency group of calls that an actor answers while its stage runs: `wait_until_exit`, and one `heartbeat`."""


@dataclass(frozen=True)
class TakeConfig:
    """What an actor must know about a take to work on it.

    Args:
        url: the output root.
        numerics: what the journal's keys promise; an actor that would compute other bits refuses to start.
        threads: compute threads of every actor.
        degrees: how the ranks of a gang share each chunk.
        load: how the model is loaded; each node has a cache of its own.
    """

    storyboard: Storyboard
    url: str
    numerics: Parts
    threads: int
    degrees: Degrees = field(default_factory=Degrees)
    load: LoadOptions = field(default_factory=LoadOptions)

    def load_for(self, act: str) -> LoadOptions:
        """How an actor of the stage `act` loads the model."""
        return self.load if STAGES[act].gpus else replace(self.load, device=CPU)

    def open(self, model: FilmModel) -> Take:
        """The take in this process. Raises `JournalError` where this process would compute other bits."""
        check_same(numerics(model, self.degrees, self.load), self.numerics)
        cache = on_this_node(self.load).cache_folder
        return open_take(plan_film(self.storyboard, model), model, Store(self.url), self.numerics, cache)


class StageActor:
    """A stage in a process of its own, for one take after another.

    Args:
        act: the stage.
        event_log: the event log actor.
        epoch: how many actors of this stage the pool has replaced.
    """

    def __init__(self, act: str, event_log: Handle, epoch: int) -> None:
        self._log = logs.configure()
        logs.bind(act=act, epoch=epoch)
        self._name, self._event_log = act, event_log
        self._model: tuple[tuple[str, LoadOptions], FilmModel] | None = None
        self._act: Act[Any] | None = None
        self._hand: IO[str] | None = None
        self._busy_since: float | None = None
        self._failed = False
        self._exit = Event()

    def open(self, config: TakeConfig) -> None:
        """Build the stage for a take: load the model, plan the film. A take that was open before is released."""
        self.close()
        device = config.load_for(self._name).device.type
        check_device(device)
        settle(config.threads, device)
        logs.bind(take=config.url)
        self._observer = RemoteObserver(self._event_log, config.url)
        self._hand = lend_hand(Store(config.url))
        self._act, self._failed = self._build(config, self._open_take(config)), False

    def run(self, *arguments: Any) -> Any:
        """The stage's result for one chunk."""
        return self._timed(self._run_chunk, *arguments)

    def close(self) -> None:
        """Release the take, once the event log has all events."""
        if self._act is not None:
            self._observer.settle()
        self._act = None
        if self._hand is not None:
            self._hand.close()
            self._hand = None

    def idle(self) -> None:
        """Returns once every earlier call is finished and the event log has its events."""
        if self._act is not None:
            self._observer.settle()

    @ray.method(concurrency_group=CONTROL)
    def wait_until_exit(self) -> None:
        """Never returns: a reference to this call becomes ready when the actor dies."""
        self._exit.wait()

    @ray.method(concurrency_group=CONTROL)
    def heartbeat(self) -> Heartbeat:
        """The actor's state."""
        since = self._busy_since
        busy_s = 0.0 if since is None else monotonic() - since
        return Heartbeat(busy_s, self._failed, ray.get_runtime_context().get_node_id(), os.getpid())

    def _open_take(self, config: TakeConfig) -> Take:
        wanted = (config.storyboard.model, config.load_for(self._name))
        if self._model is None or self._model[0] != wanted:
            self._model = (wanted, open_model(wanted[0], on_this_node(wanted[1])))
        try:
            return config.open(self._model[1])
        except JournalError:  # the file may have changed since it was loaded
            self._model = (wanted, open_model(wanted[0], on_this_node(wanted[1])))
            return config.open(self._model[1])

    def _build(self, _: TakeConfig, take: Take) -> Act[Any]:
        act: Act[Any] = resolve(STAGES[self._name].builder)(take, self._observer)
        return act

    def _run_chunk(self, *arguments: Any) -> Any:
        assert self._act is not None, "opened before it runs"
        first = arguments[0]
        with logs.context(chunk=first.index if isinstance(first, ChunkSpan) else first.span.index):
            try:
                return self._act(*arguments)
            except Exception:
                self._log.exception("act.raised")
                raise

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self._busy_since = monotonic()
        try:
            return call(*arguments)
        except BaseException:
            self._failed = True
            raise
        finally:
            self._busy_since = None


class PublisherActor(StageActor):
    """The publisher, whose film is open from the first segment to `finish`."""

    def __init__(self, act: str, event_log: Handle, epoch: int) -> None:
        super().__init__(act, event_log, epoch)
        self._published = 0

    @override
    def open(self, config: TakeConfig) -> None:
        super().open(config)
        assert self._act is not None, "just opened"
        self._act.stage.__enter__()
        self._published = 0

    @override
    def run(self, *arguments: Any) -> None:
        super().run(*arguments)
        self._published += 1

    def position(self) -> int:
        """The index of the first chunk that the film lacks."""
        return self._published

    def finish(self) -> Film:
        """Finish the film."""

        def finished() -> Film:
            assert self._act is not None, "opened before it is finished"
            self._act.stage.__exit__(None, None, None)
            film: Film = self._act.stage.film
            return film

        film: Film = self._timed(finished)
        return film

    @override
    def close(self) -> None:
        """Release the take; a film that is not finished is left as it is."""
        if self._act is not None:
            stop = InterruptedError("the publisher was closed")
            self._act.stage.__exit__(type(stop), stop, None)
        super().close()
