"""Render a storyboard: on Ray, or in this process."""

import torch
from rich.console import Console

from longtake.actors.cluster import joined
from longtake.actors.pool_config import Timeouts
from longtake.actors.session import RenderSession, SessionOptions
from longtake.jobs.interrupt import interrupt_once
from longtake.jobs.progress import Progress
from longtake.jobs.take import RenderOptions, prepare, tell_what_was_rendered
from longtake.pipeline import film
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.cancel import CancelWatch
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.observe import Observer, Observers
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take


def render_command(storyboard: str, output: str, options: RenderOptions) -> None:
    """`longtake render`: render, or resume what the output holds."""
    interrupt_once()
    console = Console()
    take = prepare(storyboard, output, options, console)
    if take is None:
        return
    if take.store.url.startswith("memory:") and not options.in_process:
        raise SpecError(f"-o is {take.store.url}; memory belongs to one process: use a folder, or add --in-process")
    with Progress(take.plan, console) as progress:
        rendered = _in_process(take, progress) if options.in_process else _on_ray(take, options, progress)
    tell_what_was_rendered(rendered, console)


def _in_process(take: Take, progress: Observer) -> Film:
    with EventLog(take.store) as log:
        observer = Observers(log, progress, CancelWatch(take.store))
        observer.event("road.start", road="in-process", torch=str(torch.__version__), threads=torch.get_num_threads())
        return film.render(take, observer)


def _on_ray(take: Take, options: RenderOptions, progress: Observer) -> Film:
    session_options = SessionOptions(
        threads=options.threads,
        degrees=options.gang.degrees(take.plan),
        gangs=options.gang.count(take.plan),
        load=options.load,
        timeouts=Timeouts.of(options.chunk_deadline_s),
        budget_bytes=options.budget_mib * 2**20,
    )
    num_cpus = session_options.pool_config(take.plan.storyboard.acts).resources.num_cpus
    with joined(options.address, num_cpus), RenderSession(session_options) as session:
        return session.render(take, progress)
