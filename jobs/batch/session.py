"""Where a gang renders on Ray: a company of actors that stays for every next take that it suits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache

from ray.exceptions import RayError
from rich.console import Console

from longtake.actors.cluster import joined
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig, Resources, Timeouts
from longtake.jobs.batch.busy_time import BusyTime
from longtake.jobs.batch.manifest import TakeSpec
from longtake.jobs.batch.options import BatchOptions
from longtake.jobs.batch.scheduler import Rendered, RenderSession
from longtake.jobs.render.run import render
from longtake.jobs.take import GangSpec, tell_what_is_kept
from longtake.jobs.weights import load_options
from longtake.pipeline.adapters.open import open_model, terms
from longtake.pipeline.errors import ActorLost
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.devices import settle
from longtake.pipeline.observe import SILENT
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import ACT_NAMES
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.weights.options import CPU, LoadOptions


@contextmanager
def ray_sessions(todo: tuple[TakeSpec, ...], options: BatchOptions) -> Iterator[Callable[[], RenderSession]]:
    """Studios on the cluster that `options` name; one of our own has room for all gangs at their largest."""
    settle(options.threads, options.device)
    acts = tuple(act for act in ACT_NAMES if any(act in take.storyboard.acts for take in todo))
    largest = Resources.of(options.threads, max(take.ranks or options.ranks for take in todo), 1, acts, options.device)
    with joined(options.address, min(options.at_once, len(todo)) * largest.num_cpus):
        yield lambda: RaySession(options, acts)


class RaySession:
    """See `longtake.jobs.batch.scheduler.Studio`; `acts` are those of all takes."""

    def __init__(self, options: BatchOptions, acts: Sequence[str]) -> None:
        self._options, self._acts, self._open = options, acts, ExitStack()
        self._load = load_options(options.dtype, options.quantize, options.device)
        self._take: Take | None = None
        self.pool: ActorPool | None = None

    def ready(self, take: TakeSpec) -> None:
        """See `RenderSession.ready`. Also raises what the model or the output have against the take."""
        self._take, degrees = _opened(take, self._options.ranks, self._load)
        timeouts = Timeouts.of(self._options.chunk_deadline_s)
        if self.pool is None or self.pool.config.degrees != degrees:
            self.close()
            config = PoolConfig.of(self._options.threads, degrees, timeouts, 1, self._acts, self._load)
            self.pool = self._open.enter_context(ActorPool(config))
        try:
            self.pool.fill()
            self.pool.report(SILENT)  # of an earlier take
        except RayError as error:
            self.close()
            raise ActorLost(f"actors do not start: {str(error).splitlines()[0]}") from error

    def render(self, tick: Callable[[], None]) -> Rendered:
        """See `RenderSession.render`."""
        take, pool, work = self._take, self.pool, BusyTime()
        assert take is not None, "`ready` comes first"
        assert pool is not None, "`ready` comes first"

        def report() -> None:
            tick()
            pool.report(work)

        render(take, pool, ChunkPacer(self._options.budget_mib * 2**20, take.plan.chunk_bytes, report))
        pool.report(work)
        return Rendered(work.seconds)

    def close(self) -> None:
        """See `RenderSession.close`."""
        self._open.close()
        self.pool = None


_model = cache(open_model)
"""Models by name: each is loaded once, whatever number of takes asks for it."""


def _opened(storyboard: TakeSpec, ranks: int, load: LoadOptions) -> tuple[Take, Degrees]:
    model = _model(storyboard.storyboard.model, replace(load, device=CPU))
    plan = plan_film(storyboard.storyboard, model)
    degrees = GangSpec(storyboard.ranks or ranks).degrees(plan)
    take = open_take(plan, model, Store(storyboard.output), numerics(model, degrees, load))
    tell_what_is_kept(take, Console(quiet=True))
    _tell_terms(storyboard.storyboard.model, load)
    return take, degrees


@cache
def _tell_terms(model: str, load: LoadOptions) -> None:
    """Say what a model's licence asks for, once."""
    if told := terms(model, load):
        Console().print(f"[yellow]{told}.", highlight=False)
