"""Render a storyboard on Ray: the road of `pipeline/film.py`, with actors in place of objects.

python -m jobs.render STORYBOARD -o OUT        the same as `longtake render`; also under `ray job submit`
"""

import os
import signal
import sys
from contextlib import ExitStack

import torch
from ray.exceptions import RayActorError
from rich.console import Console

from actors.cluster import joined
from actors.company import Company, Resources
from actors.conductor import Conductor
from actors.stage import Order
from jobs.progress import Progress
from jobs.take import RenderOptions, prepare, tell_what_was_rendered
from pipeline import film
from pipeline.acts import Take
from pipeline.errors import ActorLost, SpecError
from pipeline.journal.event_log import EventLog
from pipeline.journal.take import put_take, take_card
from pipeline.journal.writer import sole_writer
from pipeline.observe import Observer, Observers
from pipeline.stages.publish import Film


def render(take: Take, company: Company, conductor: Conductor) -> Film:
    """Render a take with a company of actors, several chunks at once; the same bits as `pipeline.film.render`."""
    plan, journal = take.plan, take.journal
    embed, denoise, decode = company.embed, company.denoise, company.decode
    encode, publish = company.encode, company.publish

    with sole_writer(take.store), company:
        put_take(take.store, take_card(plan.wish, plan.clock, plan.scenes, plan.chunks))
        company.event("film.start", **take.summary())
        for chunk in conductor.paced(plan.chunks):
            segment = journal.segment(chunk)
            if segment is None:
                latents = journal.latents(chunk)
                if latents is None:
                    latents = denoise.remote(chunk, embed.remote(chunk))
                segment = encode.remote(*decode.remote(latents))
            conductor.follow(chunk, publish.remote(segment))
        rendered = company.finish()
        company.event("film.done", url=rendered.url, frames=rendered.num_frames)

    return rendered


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
            rendered = _in_process(take, Observers(log, progress))
        else:
            degrees = options.gang.degrees(take.plan)
            resources = Resources.of(options.threads, degrees.ranks)
            stack.enter_context(joined(options.address, resources.num_cpus))
            order = Order(take.plan.wish, take.store.url, take.numerics, options.threads, degrees)
            rendered = _on_ray(take, Company(order, resources), options, progress)
    tell_what_was_rendered(rendered, console)


def _interrupted(*_: object) -> None:
    """The first Ctrl-C ends a render in order; a second one does not wait for that."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    raise KeyboardInterrupt


def _in_process(take: Take, observer: Observer) -> Film:
    observer.event("road.start", road="in-process", torch=str(torch.__version__), threads=torch.get_num_threads())
    return film.render(take, observer)


def _on_ray(take: Take, company: Company, options: RenderOptions, progress: Progress) -> Film:
    conductor = Conductor(options.budget_mib * 2**20, take.plan.chunk_bytes, lambda: company.report(progress))
    try:
        return render(take, company, conductor)
    except RayActorError as error:
        what = str(error).splitlines()[0]
        raise ActorLost(f"an actor died ({what}); finished chunks are kept, the same command goes on there") from error


if __name__ == "__main__":
    from jobs.cli import main

    main(["render", *sys.argv[1:]])
