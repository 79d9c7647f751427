"""One act as an actor: it builds its stage for a take, and then takes one chunk after another."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event
from time import monotonic
from typing import Any

import ray
from ray.actor import ActorHandle

from longtake.actors import logs
from longtake.actors.event_log_actor import RemoteObserver
from longtake.actors.heartbeat import Heartbeat
from longtake.actors.node_cache import on_this_node
from longtake.pipeline.acts import BUILDERS, Act
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
from longtake.pipeline.spec import Storyboard
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.weights.options import CPU, LoadOptions

GPU_SHARES = {"denoise": 0.7, "decode": 0.2, "upscale": 0.1}
"""Of a GPU, by the acts that compute on one: a rank has one to itself, but for a decoder and an upscaler beside it."""

CONTROL = "control"
"""The concurrency group of calls that are answered while an act is at work."""


@dataclass(frozen=True)
class TakeConfig:
    """What an actor must know to take part in a take.

    Args:
        url: the output root.
        numerics: what the journal's keys promise; an actor that computes otherwise refuses to start.
        threads: compute threads of every actor.
        degrees: how the ranks of the gang share each chunk.
        load: how the model is loaded; each node has a cache of its own.
    """

    storyboard: Storyboard
    url: str
    numerics: Parts
    threads: int
    degrees: Degrees = field(default_factory=Degrees)
    load: LoadOptions = field(default_factory=LoadOptions)

    def load_for(self, act: str) -> LoadOptions:
        """How an actor of `act` opens the model."""
        return self.load if act in GPU_SHARES else replace(self.load, device=CPU)

    def open(self, model: FilmModel) -> Take:
        """The take, as this process sees it. Raises `JournalError` where its bits would differ."""
        check_same(numerics(model, self.degrees, self.load), self.numerics)
        return open_take(plan_film(self.storyboard, model), model, Store(self.url), self.numerics)


class StageActor:
    """An act at work in a process of its own, on one take after another.

    Args:
        scribe: who writes down what happens.
        epoch: how many have held the act before, in the same company.
    """

    def __init__(self, act: str, event_log: ActorHandle, epoch: int) -> None:
        self._log = logs.configure()
        logs.bind(act=act, epoch=epoch)
        self._name, self._event_log = act, event_log
        self._model: tuple[tuple[str, LoadOptions], FilmModel] | None = None
        self._act: Act[Any] | None = None
        self._hand: Any = None
        self._since: float | None = None
        self._failed = False
        self._gone = Event()

    def open(self, order: TakeConfig) -> None:
        """Build the act for a take: load the model, plan the film. Whatever take was open before is let go of."""
        self.close()
        device = order.load_for(self._name).device.type
        check_device(device)
        settle(order.threads, device)
        logs.bind(take=order.url)
        self._observer = RemoteObserver(self._event_log, order.url)
        self._hand = lend_hand(Store(order.url))
        self._act, self._failed = self._build(order, self._take(order)), False

    def _take(self, order: TakeConfig) -> Take:
        wanted = (order.storyboard.model, order.load_for(self._name))
        if self._model is None or self._model[0] != wanted:
            self._model = (wanted, open_model(wanted[0], on_this_node(wanted[1])))
        try:
            return order.open(self._model[1])
        except JournalError:  # the file may be another one by now
            self._model = (wanted, open_model(wanted[0], on_this_node(wanted[1])))
            return order.open(self._model[1])

    def _build(self, order: TakeConfig, take: Take) -> Act[Any]:
        return BUILDERS[self._name](take, self._observer)

    def run(self, *arguments: Any) -> Any:
        """The act's result for one chunk."""
        return self._timed(self._at_work, *arguments)

    def close(self) -> None:
        """Let go of the take, once the scribe has heard everything."""
        if self._act is not None:
            self._observer.settle()
        self._act = None
        if self._hand is not None:
            self._hand.close()
            self._hand = None

    def idle(self) -> None:
        """Nothing; answered once everything that was asked before is over, and the scribe has heard of it."""
        if self._act is not None:
            self._observer.settle()

    @ray.method(concurrency_group=CONTROL)
    def wait_until_exit(self) -> None:
        """Never returns: the reference to this call is there once the actor is gone."""
        self._gone.wait()

    @ray.method(concurrency_group=CONTROL)
    def heartbeat(self) -> Heartbeat:
        """How the actor is."""
        since = self._since
        busy_s = 0.0 if since is None else monotonic() - since
        return Heartbeat(busy_s, self._failed, ray.get_runtime_context().get_node_id(), os.getpid())

    def _at_work(self, *arguments: Any) -> Any:
        assert self._act is not None, "opened before it runs"
        first = arguments[0]
        with logs.context(chunk=first.index if isinstance(first, ChunkSpan) else first.span.index):
            try:
                return self._act(*arguments)
            except Exception:
                self._log.exception("act.raised")
                raise

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self._since = monotonic()
        try:
            return call(*arguments)
        except BaseException:
            self._failed = True
            raise
        finally:
            self._since = None


class PublisherActor(StageActor):
    """The publisher, whose film is open from the first segment to `finish`."""

    def open(self, order: TakeConfig) -> None:
        """See `StageActor.open`."""
        super().open(order)
        assert self._act is not None, "just opened"
        self._act.stage.__enter__()
        self._published = 0

    def run(self, *arguments: Any) -> None:
        """See `StageActor.run`."""
        super().run(*arguments)
        self._published += 1

    def position(self) -> int:
        """The chunk that the film goes on with."""
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

    def close(self) -> None:
        """See `StageActor.close`; a film that is not finished is let go of."""
        if self._act is not None:
            stop = InterruptedError("the publisher was closed")
            self._act.stage.__exit__(type(stop), stop, None)
        super().close()
