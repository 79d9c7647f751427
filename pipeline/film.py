"""The whole road in one process: a storyboard goes in, a film comes out while it is rendered. Read this first.

    embed -> denoise -> decode -> encode -> publish

Each of these five acts is a stage in `pipeline/stages/`: a value goes in, a value comes out (`pipeline/values.py` lists
them). The film is rendered chunk by chunk, picture and sound together. What a chunk needs of the past is kept in the
denoiser's KV store and in the decoders' tails, which never grow; only the film's index does, by 50 MB an hour.
"""

from pipeline.journal.store import Store
from pipeline.models.film_model import FilmModel
from pipeline.observe import SILENT, Observer, act
from pipeline.plan import plan_film
from pipeline.spec import Storyboard
from pipeline.stages.decode import DecodeStage
from pipeline.stages.denoise import DenoiseStage
from pipeline.stages.embed import EmbedStage
from pipeline.stages.encode import EncodeStage
from pipeline.stages.publish import Film, PublishOptions, PublishStage


def render(wish: Storyboard, model: FilmModel, output: Store, observer: Observer = SILENT) -> Film:
    """Render `wish` into `output`, where it can be watched from its first chunk on.

    Args:
        wish: what to render.
        model: who renders it.
        output: where the film and its live playlist go.
        observer: hears of every act on every chunk.

    Raises:
        SpecError: the model cannot render the wish; raised before anything is written.
    """
    plan = plan_film(wish, model)
    observer.event("film.start", chunks=len(plan.chunks), frames=plan.num_frames, samples=plan.num_samples)

    embed = EmbedStage(model.text, plan.branches)
    denoise = DenoiseStage(model, plan)
    decode = DecodeStage(model.video_codec, model.sound_codec, plan.clock)
    encode = EncodeStage(wish.video.fps, wish.output.quality)
    publish = PublishStage(output, PublishOptions.of(plan, comment=model.credit))

    with publish:
        for chunk in plan.chunks:
            with act(observer, "embed", chunk):
                prompts = embed(wish.scenes[chunk.scene].prompt)
            with act(observer, "denoise", chunk):
                latents = denoise(chunk, prompts)
            with act(observer, "decode", chunk):
                frames, sound = decode(latents)
            with act(observer, "encode", chunk):
                segment = encode(frames, sound)
            with act(observer, "publish", chunk):
                publish(segment)

    observer.event("film.done", url=publish.film.url, frames=publish.film.num_frames)
    return publish.film
