"""A render session: what a front end holds to render takes on Ray, be it a command, a batch, a server or a notebook."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from ray.exceptions import RayError
from typing_extensions import override

from longtake.actors import film
from longtake.actors.failures import described
from longtake.actors.pacer import ChunkPacer
from longtake.actors.policy import RetryPolicy
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig, Timeouts
from longtake.pipeline.errors import ActorLost
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take
from longtake.pipeline.weights.options import AS_STORED, LoadOptions


@dataclass(frozen=True)
class SessionOptions:
    """How the takes of a session are rendered.

    `threads`, `degrees` and `load` are part of a film's bits: a take must be opened with the same ones, see
    `provenance.numerics`. Actors that would compute other bits refuse the take.

    Args:
        threads: compute threads of each actor.
        degrees: how the ranks of a gang share each chunk.
        gangs: that denoise the scenes between cuts in parallel.
        acts: the stages that get actors, for takes of several kinds; those of the take at hand unless given.
        load: how models are loaded.
        budget_bytes: chunks in flight may take this many bytes together.
    """

    threads: int = 1
    degrees: Degrees = field(default_factory=Degrees)
    gangs: int = 1
    acts: tuple[str, ...] | None = None
    load: LoadOptions = AS_STORED
    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    budget_bytes: int = 256 * 2**20

    def pool_config(self, acts: Sequence[str]) -> PoolConfig:
        """The actors for films with the stages `acts`."""
        return PoolConfig.of(
            threads=self.threads,
            degrees=self.degrees,
            timeouts=self.timeouts,
            gangs=self.gangs,
            acts=acts,
            load=self.load,
            retries=self.retries,
        )


class RenderSession:
    """Actors that render one take after another, and are kept for as long as they suit the next take.

        with joined(address), RenderSession(SessionOptions(threads=2)) as session:
            film = session.render(take, observer)

    The process must have joined a cluster, see `cluster.joined`. A session prints nothing, reads neither arguments nor
    the environment and sets no signal handlers. Any thread may use it, one at a time; several sessions may share a
    cluster. `options` may be replaced between takes.
    """

    def __init__(self, options: SessionOptions | None = None) -> None:
        self.options = options or SessionOptions()
        self._pool: ActorPool | None = None
        self._actors = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @property
    def pool(self) -> ActorPool | None:
        """The actors; None before the first take and after `close`."""
        return self._pool

    def prepare(self, take: Take, tick: Callable[[], None] = lambda: None) -> None:
        """Have actors running that suit `take`, so that `render` begins at once.

        Args:
            tick: called about once a second. What it raises ends the start, and is raised.

        Raises:
            CapacityError: the cluster is too small.
            StartError, ActorLost: the actors do not start.
        """
        pool = self._suitable_pool(take)
        pool.tick = tick
        try:
            pool.start()
        except RayError as error:
            self.close()
            raise ActorLost(f"actors do not start: {described(error)}") from error
        finally:
            pool.tick = lambda: None

    def render(self, take: Take, observer: Observer = SILENT, tick: Callable[[], None] = lambda: None) -> Film:
        """Render a take, or resume it; see `film.render` for what is raised.

        Args:
            observer: receives the events that also go to `events.jsonl`, in the calling thread. A `SegmentFeed` hands
                out finished chunks.
            tick: called a few times a second. What it or the observer raises ends the render and is raised here;
                finished chunks are kept. While one of them blocks, no further chunk is started.
        """
        pool, guarded = self._suitable_pool(take), _Guarded(observer)
        pool.observer = guarded

        def look() -> None:
            with _not_retried():
                tick()
            pool.report(guarded)

        try:
            rendered = film.render(take, pool, ChunkPacer(self.options.budget_bytes, take.plan.chunk_bytes, look))
            pool.report(guarded)
        except _FrontEndError as error:
            raise error.cause from None
        finally:
            pool.observer = SILENT
        return rendered

    def close(self) -> None:
        """Kill the actors; a further take starts new ones."""
        self._pool = None
        self._actors.close()

    def _suitable_pool(self, take: Take) -> ActorPool:
        wanted = self.options.acts or take.plan.storyboard.acts
        if self._pool is not None:
            acts = self._pool.config.acts
            if set(wanted) <= set(acts) and self._pool.config == self.options.pool_config(acts):
                self._pool.report(SILENT)  # drop events of an earlier take
                return self._pool
            self.close()
        self._pool = self._actors.enter_context(ActorPool(self.options.pool_config(wanted)))
        return self._pool


class _FrontEndError(BaseException):
    """An error of the front end's own code on its way out of a render: it must not be taken for an actor's."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


@contextmanager
def _not_retried() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _FrontEndError(error) from error


class _Guarded(Observer):
    """An observer whose errors end the render."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    @override
    def event(self, name: str, **fields: Any) -> None:
        with _not_retried():
            self._observer.event(name, **fields)
