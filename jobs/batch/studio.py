"""Where a gang renders on Ray: a company of actors that stays for every next take that it suits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache

from ray.exceptions import RayError
from rich.console import Console

from actors.cluster import joined
from actors.company import Company
from actors.conductor import Conductor
from actors.crew import Crew, Patience, Resources
from jobs.batch import BatchOptions
from jobs.batch.manifest import TakeWish
from jobs.batch.pool import Rendered, Studio
from jobs.batch.work import Work
from jobs.render import render
from jobs.take import GangWish, tell_what_is_kept
from jobs.weights import load_options
from pipeline.acts import Take, open_take
from pipeline.adapters.open import open_model, terms
from pipeline.attention.shares import Degrees
from pipeline.errors import ActorLost
from pipeline.journal.store import Store
from pipeline.models.devices import settle
from pipeline.numerics import numerics
from pipeline.observe import SILENT
from pipeline.plan import plan_film
from pipeline.spec import ACTS
from pipeline.weights.options import CPU, LoadOptions


@contextmanager
def ray_studios(todo: tuple[TakeWish, ...], options: BatchOptions) -> Iterator[Callable[[], Studio]]:
    """Studios on the cluster that `options` name; one of our own has room for all gangs at their largest."""
    settle(options.threads, options.device)
    acts = tuple(act for act in ACTS if any(act in take.storyboard.acts for take in todo))
    largest = Resources.of(options.threads, max(take.ranks or options.ranks for take in todo), 1, acts, options.device)
    with joined(options.address, min(options.at_once, len(todo)) * largest.num_cpus):
        yield lambda: RayStudio(options, acts)


class RayStudio:
    """See `jobs.batch.pool.Studio`; `acts` are those of all takes."""

    def __init__(self, options: BatchOptions, acts: Sequence[str]) -> None:
        self._options, self._acts, self._open = options, acts, ExitStack()
        self._load = load_options(options.dtype, options.quantize, options.device)
        self._take: Take | None = None
        self.company: Company | None = None

    def ready(self, take: TakeWish) -> None:
        """See `Studio.ready`. Also raises what the model or the output have against the take."""
        self._take, degrees = _opened(take, self._options.ranks, self._load)
        patience = Patience.of(self._options.chunk_deadline_s)
        if self.company is None or self.company.crew.degrees != degrees:
            self.close()
            crew = Crew.of(self._options.threads, degrees, patience, 1, self._acts, self._load)
            self.company = self._open.enter_context(Company(crew))
        try:
            self.company.fill()
            self.company.report(SILENT)  # of an earlier take
        except RayError as error:
            self.close()
            raise ActorLost(f"actors do not start: {str(error).splitlines()[0]}") from error

    def render(self, beat: Callable[[], None]) -> Rendered:
        """See `Studio.render`."""
        take, company, work = self._take, self.company, Work()
        assert take is not None, "`ready` comes first"
        assert company is not None, "`ready` comes first"

        def report() -> None:
            beat()
            company.report(work)

        render(take, company, Conductor(self._options.budget_mib * 2**20, take.plan.chunk_bytes, report))
        company.report(work)
        return Rendered(work.seconds)

    def close(self) -> None:
        """See `Studio.close`."""
        self._open.close()
        self.company = None


_model = cache(open_model)
"""Models by name: each is loaded once, whatever number of takes asks for it."""


def _opened(wish: TakeWish, ranks: int, load: LoadOptions) -> tuple[Take, Degrees]:
    model = _model(wish.storyboard.model, replace(load, device=CPU))
    degrees = GangWish(wish.ranks or ranks).degrees(plan_film(wish.storyboard, model))
    take = open_take(wish.storyboard, model, Store(wish.output), numerics(model, degrees, load))
    tell_what_is_kept(take, Console(quiet=True))
    _tell_terms(wish.storyboard.model, load)
    return take, degrees


@cache
def _tell_terms(model: str, load: LoadOptions) -> None:
    """Say what a model's licence asks for, once."""
    if told := terms(model, load):
        Console().print(f"[yellow]{told}.", highlight=False)
