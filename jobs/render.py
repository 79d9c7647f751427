"""The render command: a storyboard's film, with progress in the terminal and an event log beside it."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from rich.console import Console

from jobs.dry_run import print_plan
from pipeline.journal.event_log import EventLog
from jobs.progress import Progress
from pipeline.errors import SpecError
from pipeline.film import render
from pipeline.journal.store import Store
from pipeline.observe import Observers
from pipeline.plan import plan_film
from pipeline.spec import load_storyboard
from pipeline.weights.load import load_model


@dataclass(frozen=True)
class RenderOptions:
    """Flags of `longtake render`; see its help."""

    overrides: tuple[str, ...] = ()
    dry_run: bool = False
    overwrite: bool = False
    threads: int = 1


def render_in_process(storyboard: str, output: str, options: RenderOptions) -> None:
    """Render `storyboard` into `output` in this process."""
    console = Console()
    torch.set_num_threads(options.threads)
    wish = load_storyboard(storyboard, options.overrides)
    model = load_model(wish.model)
    plan = plan_film(wish, model)
    store = Store(output)
    if options.dry_run:
        print_plan(plan, model, console)
        return
    if store.exists(wish.output.film) and not options.overwrite:
        raise SpecError(f"{store.url_of(wish.output.film)} exists already; use another -o, or add --overwrite")
    if not model.config.trained:
        console.print(f"[yellow]{model.config.name} has no trained weights yet: expect moving noise, not shapes.")
    with ExitStack() as stack:
        log = stack.enter_context(EventLog(store))
        progress = stack.enter_context(Progress(plan, console))
        log.event("road.start", road="in-process", torch=torch.__version__, threads=torch.get_num_threads())
        film = render(wish, model, store, Observers(log, progress))
    console.print(f"{film.url}: {float(film.duration_s):g} s, {film.num_frames} frames, {film.num_samples} samples")
    if film.playlist_url:
        console.print(f"{film.playlist_url}: the same as a live playlist")
