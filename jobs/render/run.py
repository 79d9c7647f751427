"""Render a storyboard on Ray: the pipeline of `pipeline/film.py`, with actors in place of objects."""

from contextlib import ExitStack

import torch
from rich.console import Console

from longtake.actors.cluster import joined
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig, Timeouts
from longtake.actors.prefetch import SectionPrefetcher
from longtake.actors.stage_actor import TakeConfig
from longtake.actors.supervise import supervised
from longtake.jobs.interrupt import interrupt_once
from longtake.jobs.progress import Progress
from longtake.jobs.take import RenderOptions, prepare, tell_what_was_rendered
from longtake.pipeline import film
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.cancel import CancelWatch
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.journal.take import put_take, take_card
from longtake.pipeline.journal.writer import sole_writer
from longtake.pipeline.observe import Observer, Observers
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take


def render(take: Take, pool: ActorPool, pacer: ChunkPacer) -> Film:
    """Render a take with a company of actors, several chunks at once; the same bits as `longtake.pipeline.film.render`.

    Whoever of them dies on the way is replaced. Raises `PoisonError` for a chunk that fails again and again, and
    `Cancelled` where somebody asked for it.
    """
    cancelling = pacer.ticking(CancelWatch(take.store).look)
    with sole_writer(take.store), pool.at(order_of(take, pool.config)), cancelling:
        take.repair(pool)
        put_take(take.store, take_card(take.plan.storyboard, take.plan.clock, take.plan.scenes, take.plan.chunks))
        pool.event("film.start", **take.summary())
        rendered = supervised(pool, pacer, lambda: drive(take, pool, pacer))
        pool.event("film.done", url=rendered.url, frames=rendered.num_frames)

    return rendered


def drive(take: Take, pool: ActorPool, pacer: ChunkPacer) -> Film:
    """The road, once, from the first chunk that the publisher lacks."""
    journal, unpublished = take.journal, take.plan.chunks[pool.position() :]
    decode, upscale = pool.decode, pool.upscale
    encode, publish = pool.encode, pool.publish
    denoise = SectionPrefetcher(pool.gangs, pool.embed, take.plan.chunks, lambda index: journal.holds("latents", index))

    with pacer.ticking(denoise.look):
        for chunk in pacer.paced(unpublished):
            segment = journal.segment(chunk)
            if segment is None:
                latents = [journal.latents(part) or denoise.remote(part) for part in take.decoded_with(chunk)]
                frames, sound = decode.remote(*latents)
                segment = encode.remote(upscale.remote(frames), sound)
            pacer.follow(chunk, publish.remote(segment))

        rendered: Film = pacer.result(pool.finish())
    pacer.wait(pool.idle())
    return rendered


def order_of(take: Take, config: PoolConfig) -> TakeConfig:
    """What the actors of `config` must know of a take."""
    return TakeConfig(take.plan.storyboard, take.store.url, take.numerics, config.threads, config.degrees, config.load)


def render_command(storyboard: str, output: str, options: RenderOptions) -> None:
    """`longtake render`: render, or go on with what is there; on Ray, or in this process."""
    interrupt_once()
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
            timeouts = Timeouts.of(options.chunk_deadline_s)
            degrees, gangs = options.gang.degrees(take.plan), options.gang.count(take.plan)
            config = PoolConfig.of(options.threads, degrees, timeouts, gangs, take.plan.storyboard.acts, options.load)
            stack.enter_context(joined(options.address, config.resources.num_cpus))
            pool = stack.enter_context(ActorPool(config))
            budget_bytes = options.budget_mib * 2**20
            pacer = ChunkPacer(budget_bytes, take.plan.chunk_bytes, lambda: pool.report(progress))
            rendered = render(take, pool, pacer)
    tell_what_was_rendered(rendered, console)


def _in_process(take: Take, observer: Observer) -> Film:
    observer.event("road.start", road="in-process", torch=str(torch.__version__), threads=torch.get_num_threads())
    return film.render(take, observer)
