"""The whole pipeline in one process: a storyboard goes in, a film comes out while it is rendered. Read this first.

    embed -> denoise -> decode -> upscale -> encode -> publish

Each act is a stage in `pipeline/stages/`: a value goes in, a value comes out (`pipeline/values.py` lists them). The
film is rendered chunk by chunk, picture and sound together. What a chunk needs of earlier ones is kept in the
denoiser's KV store and in the decoders' tails, whose size is constant. Only the film's index grows, by 50 MB an hour.

Latents and segments are journalled as soon as they are finished. If the same storyboard is rendered into the same place
again, it resumes where it ended, bit for bit. Damaged files are detected and rendered again.
"""

from longtake.pipeline import acts
from longtake.pipeline.journal.finished import forget_finished
from longtake.pipeline.journal.writer import sole_writer
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take


def render(take: Take, observer: Observer = SILENT) -> Film:
    """Render a take into its store. The film can be watched as soon as its first chunk is done.

    Args:
        take: a storyboard planned for a model, and where the film goes; see `open_take`.
        observer: receives an event for each act on each chunk.

    Raises:
        JournalError: another process is rendering into the same place.
    """
    plan, journal = take.plan, take.journal
    embed = acts.embed(take, observer)
    denoise = acts.denoise(take, observer)
    decode = acts.decode(take, observer)
    upscale = acts.upscale(take, observer)
    encode = acts.encode(take, observer)
    publish = acts.publish(take, observer)

    with sole_writer(take.store):
        take.begin()
        take.repair(observer)
        forget_finished(take.store)
        observer.event("film.start", **take.summary())
        with publish.stage:
            for chunk in plan.chunks:
                segment = journal.segment(chunk)
                if segment is None:
                    latents = [journal.latents(part) or denoise(part, embed(part)) for part in take.decoded_with(chunk)]
                    frames, sound = decode(*latents)
                    segment = encode(upscale(frames), sound)
                publish(segment)
        take.put_finished(publish.stage.film)

    observer.event("film.done", url=publish.stage.film.url, frames=publish.stage.film.num_frames)
    return publish.stage.film
