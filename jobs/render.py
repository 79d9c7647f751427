"""Render a storyboard on Ray: the road of `pipeline/film.py`, with actors in place of objects.

python -m jobs.render STORYBOARD -o OUT        the same as `longtake render`; also under `ray job submit`
"""

import os
import signal
import sys
from contextlib import ExitStack

import torch
from rich.console import Console

from actors.ahead import Ahead
from actors.cluster import joined
from actors.company import Company
from actors.conductor import Conductor
from actors.crew import Crew, Patience
from actors.stage import Order
from actors.supervise import supervised
from jobs.progress import Progress
from jobs.take import RenderOptions, prepare, tell_what_was_rendered
from pipeline import acts, film
from pipeline.acts import Take
from pipeline.errors import SpecError
from pipeline.journal.cancel import CancelWatch
from pipeline.journal.event_log import EventLog
from pipeline.journal.take import put_take, take_card
from pipeline.journal.writer import sole_writer
from pipeline.observe import Observer, Observers
from pipeline.stages.publish import Film


def render(take: Take, company: Company, conductor: Conductor) -> Film:
    """Render a take with a company of actors, several chunks at once; the same bits as `pipeline.film.render`.

    Whoever of them dies on the way is replaced. Raises `PoisonError` for a chunk that fails again and again, and
    `Cancelled` where somebody asked for it.
    """
    cancelling = conductor.beating(CancelWatch(take.store).look)
    with sole_writer(take.store), company.at(order_of(take, company.crew)), cancelling:
        acts.mend(take, company)
        put_take(take.store, take_card(take.plan.wish, take.plan.clock, take.plan.scenes, take.plan.chunks))
        company.event("film.start", **take.summary())
        rendered = supervised(company, conductor, lambda: drive(take, company, conductor))
        company.event("film.done", url=rendered.url, frames=rendered.num_frames)

    return rendered


def drive(take: Take, company: Company, conductor: Conductor) -> Film:
    """The road, once, from the first chunk that the publisher lacks."""
    journal, unpublished = take.journal, take.plan.chunks[company.position() :]
    decode, upscale = company.decode, company.upscale
    encode, publish = company.encode, company.publish
    denoise = Ahead(company.gangs, company.embed, take.plan.chunks, lambda index: journal.holds("latents", index))

    with conductor.beating(denoise.look):
        for chunk in conductor.paced(unpublished):
            segment = journal.segment(chunk)
            if segment is None:
                latents = [journal.latents(part) or denoise.remote(part) for part in take.decoded_with(chunk)]
                frames, sound = decode.remote(*latents)
                segment = encode.remote(upscale.remote(frames), sound)
            conductor.follow(chunk, publish.remote(segment))

        rendered: Film = conductor.result(company.finish())
    conductor.wait(company.idle())
    return rendered


def order_of(take: Take, crew: Crew) -> Order:
    """What the actors of `crew` must know of a take."""
    return Order(take.plan.wish, take.store.url, take.numerics, crew.threads, crew.degrees, crew.load)


def render_command(storyboard: str, output: str, options: RenderOptions) -> None:
    """`longtake render`: render, or go on with what is there; on Ray, or in this process."""
    signal.signal(signal.SIGINT, _interrupted)
    console = Console()
    take = prepare(storyboard, output, options, console)
    if take is None:
        return
    if take.store.url.startswith("memory:") and not options.in_process:
        raise SpecError(f"-o is {take.store.url}; memory belongs to one process: use a folder, or add --in-process")
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(take.plan, console))
        if options.in_process:
            log = stack.enter_context(EventLog(take.store))
            rendered = _in_process(take, Observers(log, progress, CancelWatch(take.store)))
        else:
            patience = Patience.of(options.chunk_deadline_s)
            degrees, gangs = options.gang.degrees(take.plan), options.gang.count(take.plan)
            crew = Crew.of(options.threads, degrees, patience, gangs, take.plan.wish.acts, options.load)
            stack.enter_context(joined(options.address, crew.resources.num_cpus))
            company = stack.enter_context(Company(crew))
            budget_bytes = options.budget_mib * 2**20
            conductor = Conductor(budget_bytes, take.plan.chunk_bytes, lambda: company.report(progress))
            rendered = render(take, company, conductor)
    tell_what_was_rendered(rendered, console)


def _interrupted(*_: object) -> None:
    """The first Ctrl-C ends a render in order; a second one does not wait for that."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    raise KeyboardInterrupt


def _in_process(take: Take, observer: Observer) -> Film:
    observer.event("road.start", road="in-process", torch=str(torch.__version__), threads=torch.get_num_threads())
    return film.render(take, observer)


if __name__ == "__main__":
    from jobs.cli import main

    main(["render", *sys.argv[1:]])
