"""Films of the built-in model, rendered in memory and rated from pixels and sound: the input of `bench fidelity`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longtake.jobs.bench.ranks import fork_server
from longtake.pipeline.adapters.loras import open_loras
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.inspect.drift import measure_drift
from longtake.pipeline.inspect.motion import follow
from longtake.pipeline.inspect.pictures import PictureMeter, Pictures
from longtake.pipeline.inspect.prompts import away_from_ends, read_scenes, visible_bounces
from longtake.pipeline.inspect.shapes import Sightings, detect_shapes
from longtake.pipeline.inspect.sound import window_onsets
from longtake.pipeline.inspect.subject import FilmScene
from longtake.pipeline.inspect.windows import sound_windows
from longtake.pipeline.media.read import FrameBlock
from longtake.pipeline.models.av_dit import AVDiT
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.models.protocols import Stream, Tokens
from longtake.pipeline.plan import FilmPlan, plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.training.world import Caption
from longtake.pipeline.values import FrameChunk, LatentChunk, SoundChunk
from longtake.pipeline.weights.load import load_model

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FilmToRate:
    """A film to render; `apart` is without attention between picture and sound, `lora` is the file of a LoRA, and
    `sampling` are keys of the storyboard's section, in YAML."""

    caption: Caption
    seconds: int
    seed: int
    apart: bool = False
    lora: str | None = None
    sampling: str = "{}"


@dataclass(frozen=True)
class Rating:
    """What was measured of one film.

    Args:
        accurate: colour, shape, background and motion, read from pixels, match the prompt.
        hits_s: times of wall hits, read from pixels; empty if the prompt asks for silence.
        onsets_s: times of sound onsets.
        teleports: jumps of the shape by more than 8 pixels.
        at_chunks, at_latents: change between frames at chunk borders, and at the borders of other latents.
        contrast_drift, saturation_drift: relative change from start to end.
    """

    film: FilmToRate
    accurate: bool
    hits_s: Array
    onsets_s: Array
    teleports: int
    at_chunks: Array
    at_latents: Array
    contrast_drift: float
    saturation_drift: float


def rate_all(model: str, films: Sequence[FilmToRate], workers: int) -> list[Rating]:
    """Render and rate films of the model called `model`, the longest first, in processes of one thread each."""
    order = sorted(range(len(films)), key=lambda number: -films[number].seconds)
    with fork_server().Pool(workers, _start, (model,)) as pool:
        ratings = pool.map(_rate, [films[number] for number in order], chunksize=1)
    return [ratings[order.index(number)] for number in range(len(films))]


_MODEL: list[EmbeddedModel] = []


def _start(model: str) -> None:
    torch.set_num_threads(1)
    _MODEL[:] = [load_model(model)]


def _rate(film: FilmToRate) -> Rating:
    return rate(_MODEL[0], film)


def rate(model: EmbeddedModel, film: FilmToRate) -> Rating:
    """Render one film and rate it; frames are dropped as soon as they are measured."""
    plan = plan_of(model, film)
    meter, sightings, pcm = PictureMeter(), [], []
    for frames, sound in render(model, plan, film.apart):
        pixels = frames.frames.numpy()
        meter.add(FrameBlock(tuple(plan.clock.seconds(number) for number in frames.span.frames), pixels))
        sightings.append(detect_shapes(pixels))
        pcm.append(sound.pcm.numpy())
    return _rating(film, plan, meter.pictures(), Sightings.join(sightings), np.concatenate(pcm, axis=1))


def plan_of(model: EmbeddedModel, film: FilmToRate) -> FilmPlan:
    """The plan of a film in one scene, with the defaults of a storyboard."""
    loras = "" if film.lora is None else f"loras: [{{file: {film.lora}}}], "
    storyboard = parse_storyboard(
        f"{{seed: {film.seed}, sampling: {film.sampling}, {loras}scenes: [{{prompt: {film.caption},"
        f" duration: {film.seconds}s}}]}}"
    )
    return plan_film(storyboard, model)


def render(model: EmbeddedModel, plan: FilmPlan, apart: bool = False) -> Iterator[tuple[FrameChunk, SoundChunk]]:
    """The film, chunk by chunk, without writing files."""
    embed, decode = EmbedStage(model.text, plan), DecodeStage(model, plan, lambda _: None)
    if not apart:
        loras = open_loras(plan.storyboard, model).attach(text=False)
        denoise = DenoiseStage(model, plan, lambda _: None, loras=loras)
        for chunk in plan.chunks:
            yield decode(denoise(chunk, embed(chunk)))
        return
    alone = [one_stream(model, name) for name in ("video", "audio")]
    picture, sound = (DenoiseStage(each, plan_film(plan.storyboard, each), lambda _: None) for each in alone)
    for chunk in plan.chunks:
        conditioning = embed(chunk)
        yield decode(LatentChunk(chunk, picture(chunk, conditioning).video, sound(chunk, conditioning).audio))


class OneStream(nn.Module):
    """A denoiser of one stream only; it has the parts that `DenoiseStage` uses."""

    def __init__(self, denoiser: AVDiT, stream: str) -> None:
        super().__init__()
        self.denoiser, self._stream = denoiser, stream
        self.rope, self.config = denoiser.rope, denoiser.config

    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        """The denoiser's sites without the other stream."""
        layouts = self.denoiser.sites(latent_height, latent_width, chunk_latents, chunk_audio)
        return [
            SiteLayout(
                *(layout.kind, layout.num_layers, layout.num_heads, layout.head_dim),
                tuple(stream for stream in layout.streams if stream.name in (self._stream, "text")),
            )
            for layout in layouts
        ]

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The denoiser's layers."""
        return self.denoiser.blocks

    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        """The stream's tokens."""
        return self.denoiser.embed({self._stream: streams[self._stream]}, text)

    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """The stream's velocity; that of the other stream is zero."""
        own = self.denoiser.head(tokens, {self._stream: streams[self._stream]})
        return {name: own.get(name, torch.zeros_like(stream.latents)) for name, stream in streams.items()}


def one_stream(model: EmbeddedModel, stream: str) -> EmbeddedModel:
    """A copy of `model` whose denoiser sees only `stream`."""
    alone = EmbeddedModel.untrained(model.config)
    alone.load_state_dict(model.state_dict())
    alone.denoiser = OneStream(alone.denoiser, stream)  # type: ignore[assignment]
    return alone.eval()


def _rating(
    film: FilmToRate, plan: FilmPlan, pictures: Pictures, sightings: Sightings, pcm: NDArray[np.float32]
) -> Rating:
    fps = float(plan.clock.fps)
    scenes = (FilmScene(str(film.caption), True, range(plan.num_frames)),)
    track = follow(sightings.middles, fps)
    windows = sound_windows([pcm], plan.clock.sample_rate)
    onsets = np.concatenate([window_onsets(window) for window in windows])
    (reading,) = read_scenes(sightings, track, scenes, onsets, fps)
    assert reading.accuracy is not None, "a caption can always be read"
    hits = away_from_ends(visible_bounces(track, scenes, fps), scenes, fps)
    chunks = [chunk.frames.start for chunk in plan.chunks[1:]]
    latents = range(plan.clock.video_stride, plan.num_frames, plan.clock.video_stride)
    drift = measure_drift(pictures, [range(plan.num_frames)], fps)
    return Rating(
        film=film,
        accurate=reading.accuracy.whole == 1,
        hits_s=hits,
        onsets_s=away_from_ends(onsets, scenes, fps),
        teleports=reading.teleports,
        at_chunks=pictures.change[chunks],
        at_latents=pictures.change[sorted(set(latents) - set(chunks))],
        contrast_drift=drift.contrast if drift else 0.0,
        saturation_drift=drift.saturation if drift else 0.0,
    )
