"""What rendering in this process and on Ray share: open the take, report what is reused, --dry-run, --fresh."""

from dataclasses import dataclass, field, replace

from rich.console import Console

from longtake.jobs.dry_run import print_plan
from longtake.pipeline.adapters.open import open_model, terms
from longtake.pipeline.adapters.upscalers import upscaler_notes
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.devices import check_device, settle
from longtake.pipeline.parallel.degrees import Degrees, propose
from longtake.pipeline.plan import FilmPlan, plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import load_storyboard
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
    """Flags of `longtake render`; see its help."""

    overrides: tuple[str, ...] = ()
    dry_run: bool = False
    fresh: bool = False
    in_process: bool = False
    threads: int = 1
    address: str | None = None
    budget_mib: int = 256
    chunk_deadline_s: float = 900.0
    gang: GangSpec = field(default_factory=GangSpec)
    load: LoadOptions = field(default_factory=LoadOptions)


def prepare(url: str, output: str, options: RenderOptions, console: Console) -> Take | None:
    """The take to render. Everything is checked and nothing is written. None for a dry run, which only prints."""
    if options.in_process:
        check_device(options.load.device.type)
    settle(options.threads, options.load.device.type)
    storyboard = load_storyboard(url, options.overrides)
    model = open_model(storyboard.model, options.load if options.in_process else replace(options.load, device=CPU))
    store = fresh_place(output) if options.fresh else Store(output)
    plan = plan_film(storyboard, model)
    degrees = options.gang.degrees(plan)
    if options.in_process and degrees.ranks > 1:
        raise SpecError(f"--in-process is one rank, not {degrees.ranks}; leave one of the two out")
    take = open_take(plan, model, store, numerics(model, degrees, options.load))
    for note in take.notes:
        console.print(f"[yellow]{note}.", highlight=False)
    if options.dry_run:
        print_plan(plan, model, degrees, console)
        return None
    tell_what_is_kept(take, console)
    if notice := terms(storyboard.model, options.load):
        console.print(f"[yellow]{notice}.", highlight=False)
    if take.upscaler is not None:
        for note in upscaler_notes(take.upscaler.name, take.upscaler.model):
            console.print(f"[yellow]{note}.", highlight=False)
    if not model.trained:
        console.print(f"[yellow]{model.name} has no trained weights yet: expect moving noise, not shapes.")
    return take


def fresh_place(output: str) -> Store:
    """The output root if it holds no take, or the first of `output-2`, `output-3` ... that holds none."""
    number, place = 1, Store(output)
    while has_take(place):
        number += 1
        place = Store(f"{output.rstrip('/')}-{number}")
    return place


def has_take(store: Store) -> bool:
    """Whether an output root holds a take."""
    return store.exists("journal/take.json")


def tell_what_is_kept(take: Take, console: Console) -> None:
    """Print how much of an earlier render is reused, and why the rest is not.

    Raises:
        SpecError: there is a film that longtake did not write.
    """
    film = take.plan.storyboard.output.film
    if not has_take(take.store):
        if take.store.exists(film):
            url = take.store.url_of(film)
            raise SpecError(f"{url} was not written by longtake; use another -o (nothing was overwritten)")
        return
    chunks, kept = len(take.plan.chunks), take.journal.num_kept("latents")
    why = "" if kept == chunks else f"; chunk {kept}: {take.journal.why_not('latents', kept)}"
    console.print(f"Resuming in {take.store.url}: {kept} of {chunks} chunks are kept{why}.", highlight=False)


def tell_what_was_rendered(film: Film, console: Console) -> None:
    """Print where the film is."""
    console.print(f"{film.url}: {float(film.duration_s):g} s, {film.num_frames} frames, {film.num_samples} samples")
    if film.playlist_url:
        console.print(f"{film.playlist_url}: the same film as a live playlist")
