"""Renders the takes of a batch on Ray: a session per gang, whose actors are kept for the next take that they suit."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from threading import Event

from typing_extensions import override

from longtake.actors.capacity import check_processes
from longtake.actors.cluster import joined, joins
from longtake.actors.load_options import load_options, resolve_device
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import Resources, Timeouts, actor_env
from longtake.actors.rendering import GangSpec, check_gpu, check_kept, check_ours
from longtake.actors.session import RenderSession, SessionOptions
from longtake.actors.temp_folder import check_ray_folder
from longtake.jobs.batch.busy_time import BusyTime
from longtake.jobs.batch.manifest import TakeSpec
from longtake.jobs.batch.options import BatchOptions
from longtake.jobs.batch.scheduler import BatchSession, Rendered, Stopped
from longtake.jobs.feedback import plain_console
from longtake.pipeline.adapters.open import open_model, terms
from longtake.pipeline.errors import LongtakeError, SpecError
from longtake.pipeline.journal.finished import num_finished_chunks
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.devices import check_threads, settle
from longtake.pipeline.models.limits import check_trained_size
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.registry import STAGES
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.weights.options import CPU, LoadOptions

_READERS = 16


def ray_sessions(
    todo: tuple[TakeSpec, ...], options: BatchOptions, stop: Event | None = None
) -> AbstractContextManager[Callable[[], BatchSession]]:
    """Opens sessions on the cluster that `options` name, or on a new one that is large enough for all gangs.

    The call checks and writes nothing; the cluster is joined or started for the block.

    Args:
        stop: once set, no more actors are waited for.

    Raises:
        SpecError: an option is wrong, there is no GPU to render on, or finished films would be lost.
    """
    options = replace(options, device=resolve_device(options.device, address=options.address))
    _load(options)
    check_threads(options.threads)
    joining = joins(options.address)
    check_gpu(options.device, here=not joining)
    if not joining:
        check_ray_folder()
        gangs, ranks = min(options.at_once, len(todo)), max(take.ranks or options.ranks for take in todo)
        check_processes(gangs * ranks, f"--gangs is {gangs}, --ranks {ranks}")
    if not options.replace:
        _check_kept(todo, options)
    return _sessions(todo, options, stop or Event())


@contextmanager
def _sessions(todo: tuple[TakeSpec, ...], options: BatchOptions, stop: Event) -> Iterator[Callable[[], BatchSession]]:
    settle(options.threads, options.device)
    acts = tuple(act for act in STAGES if any(act in take.storyboard.acts for take in todo))
    ranks = max(take.ranks or options.ranks for take in todo)
    largest = Resources.of(options.threads, ranks, acts=acts, device=options.device)
    env = actor_env(options.threads) if options.device == "cpu" else None
    with joined(options.address, min(options.at_once, len(todo)) * largest.num_cpus, env):
        yield lambda: RaySession(options, acts, stop)


class RaySession(BatchSession):
    """A render session for the takes of a batch.

    Args:
        acts: the stages of all takes.
        stop: once set, no more actors are waited for.
    """

    def __init__(self, options: BatchOptions, acts: Sequence[str], stop: Event) -> None:
        self._options, self._stop = options, stop
        self._take: Take | None = None
        self._session = RenderSession(
            SessionOptions(
                threads=options.threads,
                acts=tuple(acts),
                load=_load(options),
                timeouts=Timeouts.of(options.chunk_deadline_s, options.nodes_s),
                budget_bytes=options.budget_mib * 2**20,
            )
        )

    @property
    def pool(self) -> ActorPool | None:
        """The actors; None while there are none."""
        return self._session.pool

    @override
    def ready(self, take: TakeSpec) -> None:
        """Open the take and start its actors. Also raises what is wrong with the model or the output."""
        self._take, degrees = _opened(take, self._options)
        self._session.options = replace(self._session.options, degrees=degrees)
        self._session.prepare(self._take, self._look)

    @override
    def render(self, tick: Callable[[], None]) -> Rendered:
        assert self._take is not None, "`ready` comes first"
        busy = BusyTime()
        self._session.render(self._take, busy, tick)
        return Rendered(busy.seconds)

    @override
    def close(self) -> None:
        self._session.close()

    def _look(self) -> None:
        if self._stop.is_set():
            raise Stopped


_model = cache(open_model)
"""Models by name: each is loaded once, for all takes that use it."""


def _load(options: BatchOptions) -> LoadOptions:
    return load_options(
        options.dtype, options.quantize, options.device, options.offload, options.numerics, options.compile
    )


def _check_kept(todo: Sequence[TakeSpec], options: BatchOptions) -> None:
    """Raise one `SpecError` that names each take whose finished film would be lost."""
    with ThreadPoolExecutor(_READERS) as threads:
        finished = list(threads.map(lambda take: _holds_film(take.output), todo))
    mistakes = []
    for take, holds in zip(todo, finished, strict=True):
        try:
            if holds:
                check_kept(_opened(take, options)[0])
        except SpecError as error:
            mistakes.append(f"{take.id}: {error}")
        except LongtakeError:
            continue  # the take's own attempt reports it
    if mistakes:
        raise SpecError("\n".join(mistakes))


def _holds_film(output: str) -> bool:
    try:
        return num_finished_chunks(Store(output)) > 0
    except (OSError, SpecError):
        return False  # the take's own attempt reports it


def _opened(spec: TakeSpec, options: BatchOptions) -> tuple[Take, Degrees]:
    load = _load(options)
    model = _model(spec.storyboard.model, replace(load, device=CPU))
    plan = plan_film(spec.storyboard, model)
    if not options.any_size:
        check_trained_size(plan.storyboard, model.limits)
    degrees = GangSpec(spec.ranks or options.ranks).degrees(plan)
    take = open_take(plan, model, Store(spec.output), numerics(model, degrees, load))
    check_ours(take)
    _print_terms(spec.storyboard.model, load)
    return take, degrees


@cache
def _print_terms(model: str, load: LoadOptions) -> None:
    """Print what a model's licence asks of its users, once."""
    if notice := terms(model, load):
        plain_console().print(f"{notice}.", style="yellow")
