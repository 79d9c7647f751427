"""Open a take and render it, in this process or on Ray: what the render command, the Python API and a server share.

Nothing here prints, reads arguments or sets signal handlers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from typing_extensions import override

from longtake.actors.capacity import check_processes, wait_for
from longtake.actors.cluster import cluster_note, joined, joins
from longtake.actors.policy import NODES_S
from longtake.actors.pool_config import Timeouts, actor_env
from longtake.actors.session import RenderSession, SessionOptions
from longtake.actors.temp_folder import check_ray_folder
from longtake.pipeline import film
from longtake.pipeline.adapters.open import open_model, terms
from longtake.pipeline.adapters.upscalers import upscaler_notes
from longtake.pipeline.errors import CapacityError, SpecError
from longtake.pipeline.journal.cancel import CancelWatch
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.journal.finished import num_finished_chunks
from longtake.pipeline.journal.root import has_take, output_root
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.devices import check_device, settle
from longtake.pipeline.models.limits import check_trained_size, untrained_size
from longtake.pipeline.observe import Observer, Observers
from longtake.pipeline.parallel.degrees import Degrees, propose
from longtake.pipeline.plan import FilmPlan, plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import Storyboard
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.weights.options import CPU, LoadOptions


@dataclass(frozen=True)
class GangSpec:
    """The ranks of a gang, how they share a chunk, and the number of gangs. None: chosen for the plan.

    Args:
        ranks: that denoise each chunk together.
        ulysses: ranks that share the heads.
        ring: ranks that share the rows.
        cfg: ranks that share the guidance passes.
        gangs: that denoise independent scenes at once.
    """

    ranks: int | None = None
    ulysses: int | None = None
    ring: int | None = None
    cfg: int | None = None
    gangs: int | None = None

    def count(self, plan: FilmPlan) -> int:
        """The number of gangs for `plan`. Raises `SpecError` for several if its scenes are rendered in sequence."""
        sections = len({chunk.section for chunk in plan.chunks})
        if not plan.storyboard.parallel_scenes:
            if (self.gangs or 1) > 1:
                raise SpecError(
                    f"--gangs is {self.gangs}, but the storyboard renders its scenes in sequence;"
                    " add parallel_scenes: true to it, or leave --gangs out"
                )
            return 1
        return min(self.gangs or 2, sections)

    def degrees(self, plan: FilmPlan) -> Degrees:
        """The degrees for `plan`. Raises `SpecError` if they contradict each other or the plan."""
        if self.ulysses is None and self.ring is None and self.cfg is None:
            return propose(self.ranks or 1, plan.sites[0].num_heads, len(plan.branches))
        degrees = Degrees(ulysses=self.ulysses or 1, ring=self.ring or 1, cfg=self.cfg or 1)
        if self.ranks not in (None, degrees.ranks):
            raise SpecError(
                f"--ranks is {self.ranks}; ulysses {degrees.ulysses} x ring {degrees.ring} x cfg {degrees.cfg} are"
                f" {degrees.ranks}; leave --ranks out, or change the degrees"
            )
        if degrees.cfg > len(plan.branches):
            raise SpecError("--cfg-parallel is 2, but a guidance of 1 has one pass only; leave it out")
        return degrees


@dataclass(frozen=True)
class RenderOptions:
    """How a take is rendered.

    Args:
        fresh: if the output holds a take already, use the first of `output-2`, `output-3`, ... that holds none.
        replace: overwrite a finished film of which less than half would be kept.
        any_size: also render sizes that the model was not trained on.
        in_process: render in this process, without Ray.
        threads: compute threads of each process; part of the bits.
        address: of a Ray cluster to join; None: see `cluster.joined`.
        budget_mib: memory of all chunks in flight.
        chunk_deadline_s: an actor that works on one chunk for longer is replaced.
        nodes_s: how long to wait for nodes that an autoscaler has yet to start.
        load: precision and device of the model.
    """

    fresh: bool = False
    replace: bool = False
    any_size: bool = False
    in_process: bool = False
    threads: int = 1
    address: str | None = None
    budget_mib: int = 256
    chunk_deadline_s: float = 900.0
    nodes_s: float = NODES_S
    gang: GangSpec = field(default_factory=GangSpec)
    load: LoadOptions = field(default_factory=LoadOptions)

    def check(self) -> None:
        """Raise `SpecError` if options contradict each other."""
        if self.in_process and self.address is not None:
            raise SpecError(
                f"--address is {self.address}, but --in-process renders without Ray; leave one of the two out"
            )
        if self.fresh and self.replace:
            raise SpecError(
                "--fresh keeps the film that is there, and --replace overwrites it; leave one of the two out"
            )

    def session_options(self, plan: FilmPlan) -> SessionOptions:
        """The options of a session on Ray for `plan`."""
        return SessionOptions(
            threads=self.threads,
            degrees=self.gang.degrees(plan),
            gangs=self.gang.count(plan),
            load=self.load,
            timeouts=Timeouts.of(self.chunk_deadline_s, self.nodes_s),
            budget_bytes=self.budget_mib * 2**20,
        )


def open_render(storyboard: Storyboard, output: str, options: RenderOptions) -> Take:
    """The take to render. Everything is checked and nothing is written.

    Args:
        output: the output root: a path or fsspec URL.

    Raises:
        SpecError: storyboard, options and model do not fit each other, or the output cannot be used.
        WeightsError: the model cannot be opened.
    """
    options.check()
    joining = joins(options.address)
    check_gpu(options.load.device.type, here=options.in_process or not joining)
    if not options.in_process and not joining:
        check_ray_folder()
    if output.startswith("memory:") and not options.in_process:
        raise SpecError(f"-o is {output}; memory belongs to one process: use a folder, or add --in-process")
    store = output_root(output)
    settle(options.threads, options.load.device.type)
    model = open_model(storyboard.model, options.load if options.in_process else replace(options.load, device=CPU))
    if options.fresh:
        store = fresh_place(output)
    plan = plan_film(storyboard, model)
    if not options.any_size:
        check_trained_size(plan.storyboard, model.limits)
    degrees, gangs = options.gang.degrees(plan), options.gang.count(plan)
    if options.in_process and max(degrees.ranks, gangs) > 1:
        asked = f"{degrees.ranks} ranks" if degrees.ranks > 1 else f"{gangs} gangs"
        raise SpecError(f"--in-process is one rank in one gang, not {asked}; leave one of the two out")
    if not options.in_process and not joining:
        check_processes(degrees.ranks * gangs, f"--ranks is {degrees.ranks}, --gangs {gangs}")
    take = open_take(plan, model, store, numerics(model, degrees, options.load), options.load.cache_folder)
    check_ours(take)
    if not options.replace:
        check_kept(take)
    return take


def render(take: Take, options: RenderOptions, observer: Observer, tick: Callable[[], None] = lambda: None) -> Film:
    """Render an opened take, or resume it, with the options that it was opened with.

    Args:
        observer: receives the events that also go to `events.jsonl`, and those of the start of Ray and the actors, in
            the calling thread.
        tick: called a few times a second on Ray, and at each event in this process. An error that it raises ends the
            render and is raised here; finished chunks are kept.

    Raises:
        JournalError: another process is rendering into the same place.
        CapacityError, StartError: the actors cannot be started.
        PoisonError: a chunk failed too often in a row.
        Cancelled: `longtake cancel` asked for it.
    """
    if options.in_process:
        with EventLog(take.store) as log:
            observers = Observers(log, observer, CancelWatch(take.store), _Ticking(tick))
            threads = torch.get_num_threads()
            observers.event("road.start", road="in-process", torch=str(torch.__version__), threads=threads)
            return film.render(take, observers)
    observer.event("cluster.start")
    session_options = options.session_options(take.plan)
    config = session_options.pool_config(take.plan.storyboard.acts)
    env = actor_env(config.threads) if config.load.device.type == "cpu" else None
    with joined(options.address, config.resources.num_cpus, env), RenderSession(session_options) as session:
        if reason := wait_for(config.resources):
            observer.event("cluster.wait", reason=reason)
        return session.render(take, observer, tick)


def notes(take: Take, options: RenderOptions) -> Iterator[str]:
    """What the user should know before the take is rendered: inputs, licences, weights that were not trained."""
    yield from take.notes
    if not options.in_process and (joining := cluster_note(options.address)):
        yield joining
    if mistake := untrained_size(take.plan.storyboard, take.model.limits):
        yield f"{mistake}; expect noise"
    model = take.plan.storyboard.model
    if notice := terms(model, options.load):
        yield notice
    if take.upscaler is not None:
        yield from upscaler_notes(take.upscaler.name, take.upscaler.model)
    if not take.model.trained:
        yield f"{take.model.name} has no trained weights yet: expect moving noise, not shapes"


def fresh_place(output: str) -> Store:
    """The output root if it holds no take, or the first of `output-2`, `output-3` ... that holds none."""
    number, place = 1, Store(output)
    first = place.url
    while has_take(place):
        number += 1
        place = Store(f"{first}-{number}")
    return place


def check_gpu(device: str, *, here: bool) -> None:
    """Raise `SpecError` if films are to be rendered on this machine's GPU and there is none.

    Args:
        here: whether they are rendered on this machine.
    """
    try:
        check_device(device, here)
    except CapacityError as error:
        raise SpecError(str(error)) from None


def check_ours(take: Take) -> None:
    """Raise `SpecError` if the place of the take's film holds a file that longtake did not write."""
    film_name = take.plan.storyboard.output.film
    if not has_take(take.store) and take.store.exists(film_name):
        url = take.store.url_of(film_name)
        raise SpecError(f"{url} was not written by longtake; use another -o (nothing was overwritten)")


def check_kept(take: Take) -> None:
    """Raise `SpecError` if the place of the take's film holds a finished film, most of which would be lost."""
    num_chunks = num_finished_chunks(take.store)
    kept = take.journal.kept("latents") if num_chunks else []
    if 2 * len(kept) >= num_chunks:
        return
    first = next(index for index in range(len(kept) + 1) if index not in kept)
    why = take.journal.why_not("latents", first) if first < len(take.plan.chunks) else "the storyboard is shorter"
    raise SpecError(
        f"{take.store.url} holds a finished film, and {num_chunks - len(kept)} of its {num_chunks} chunks would be lost"
        f" ({why}); add --replace to overwrite it, --fresh to render into a new folder next to it, or use another -o"
    )


class _Ticking(Observer):
    """An observer that calls `tick` at every event."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick

    @override
    def event(self, name: str, **fields: Any) -> None:
        self._tick()
