"""The pipeline on Ray: `pipeline/film.py` line for line, with actors in place of stages.

    embed -> denoise -> decode -> upscale -> encode -> publish

Each call returns a reference at once, so several chunks are in flight; the pacer bounds their bytes. The film has the
same bits as one that a single process renders.
"""

from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.actors.pool_config import PoolConfig
from longtake.actors.prefetch import SectionPrefetcher
from longtake.actors.stage_actor import TakeConfig
from longtake.actors.supervise import supervised
from longtake.pipeline.journal.cancel import CancelWatch
from longtake.pipeline.journal.finished import forget_finished
from longtake.pipeline.journal.writer import sole_writer
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take


def render(take: Take, pool: ActorPool, pacer: ChunkPacer) -> Film:
    """Render a take into its store with a pool of actors. Actors that die, hang or raise are replaced.

    Raises:
        JournalError: another process is rendering into the same place.
        PoisonError: a chunk failed too often in a row.
        Cancelled: `longtake cancel` asked for it.
    """
    watch = CancelWatch(take.store)

    with sole_writer(take.store), pool.opened(config_of(take, pool.config), watch.look), pacer.ticking(watch.look):
        take.begin()
        take.repair(pool)
        forget_finished(take.store)
        pool.event("film.start", **take.summary())
        film = supervised(pool, pacer, lambda: drive(take, pool, pacer))
        take.put_finished(film)
        pool.event("film.done", url=film.url, frames=film.num_frames)

    return film


def drive(take: Take, pool: ActorPool, pacer: ChunkPacer) -> Film:
    """One pass through the pipeline, from the first chunk that the publisher's film lacks."""
    plan, journal = take.plan, take.journal
    embed = pool.stage("embed")
    denoise = SectionPrefetcher(pool.gangs, embed, plan.chunks, lambda index: journal.holds("latents", index))
    decode = pool.stage("decode")
    upscale = pool.stage("upscale")
    encode = pool.stage("encode")
    publish = pool.publish

    with pacer.ticking(denoise.look):
        for chunk in pacer.paced(plan.chunks[pool.position() :]):
            segment = journal.segment(chunk)
            if segment is None:
                latents = [journal.latents(part) or denoise.remote(part) for part in take.decoded_with(chunk)]
                frames, sound = decode.remote(*latents)
                segment = encode.remote(upscale.remote(frames), sound)
            pacer.follow(chunk, publish.remote(segment))
        film: Film = pacer.result(pool.finish())

    pacer.wait(pool.idle())
    return film


def config_of(take: Take, config: PoolConfig) -> TakeConfig:
    """What the actors of a pool must know about a take."""
    return TakeConfig(
        storyboard=take.plan.storyboard,
        url=take.store.url,
        numerics=take.numerics,
        threads=config.threads,
        degrees=config.degrees,
        load=config.load,
    )
