"""The plan of one film: the wish laid on the clock and measured against the model, before anything starts."""

from dataclasses import dataclass
from math import prod

from pipeline.attention.kv_plan import SiteLayout, store_bytes
from pipeline.clock import ChunkSpan, MediaClock, SceneSpan, plan_chunks, plan_scenes
from pipeline.errors import SpecError
from pipeline.models.protocols import FilmModel
from pipeline.sampling.guidance import ClassifierFree, Guidance, PerStream, StreamScales
from pipeline.sampling.schedule import Levels, noise_levels
from pipeline.spec import GuidanceSpec, SamplingSpec, Storyboard, check_against


@dataclass(frozen=True)
class FilmPlan:
    """Everything about a film that is known before its first chunk.

    Args:
        branches: guidance passes, "guided" first; see `sampling.guidance`.
        sigmas: noise levels of each stream, from 1 to 0.
        latent_shapes: shape of one latent by stream.
        sites: room that the KV store needs.
    """

    wish: Storyboard
    clock: MediaClock
    scenes: tuple[SceneSpan, ...]
    chunks: tuple[ChunkSpan, ...]
    branches: tuple[str, ...]
    sigmas: Levels
    latent_shapes: dict[str, tuple[int, ...]]
    sites: tuple[SiteLayout, ...]

    @property
    def num_frames(self) -> int:
        """Frames of the film."""
        return self.chunks[-1].frames.stop

    @property
    def num_samples(self) -> int:
        """Sound samples of the film."""
        return self.chunks[-1].samples.stop

    def chunk_bytes(self, chunk: ChunkSpan) -> int:
        """What `chunk` weighs on the road, at most: latents, and frames and sound decoded, enlarged and encoded."""
        latents = len(chunk.latents) * prod(self.latent_shapes["video"])
        latents += len(chunk.audio_latents) * prod(self.latent_shapes["audio"])
        frames = len(chunk.frames) * self.wish.video.width * self.wish.video.height * 3
        scale = self.wish.output.upscale
        shown = 2 * frames if scale is None else (1 + 2 * scale**2) * frames
        return 4 * latents + shown + 2 * 4 * (len(chunk.samples) + 2 * self.clock.audio_stride)

    @property
    def num_steps(self) -> int:
        """Denoising steps of one chunk."""
        return len(self.sigmas["video"]) - 1

    def tokens(self, chunk: ChunkSpan) -> int:
        """Tokens that one pass over `chunk` holds, text included."""
        per_latent = {stream.name: stream.page_tokens for site in self.sites[:1] for stream in site.streams}
        full = max(len(c.latents) for c in self.chunks)
        return per_latent["video"] // full * len(chunk.latents) + len(chunk.audio_latents) + per_latent["text"]


def plan_film(wish: Storyboard, model: FilmModel) -> FilmPlan:
    """Lay `wish` on the clock for `model`. Raises `SpecError` for whatever the model cannot render."""
    check_against(wish, model.limits)
    check_prompts(wish, model)
    clock = model.clock(wish.video.fps)
    scenes = plan_scenes(clock, wish.durations_s(), wish.cuts())
    chunks = plan_chunks(clock, scenes, model.chunk_latents)
    shapes = model.latent_shapes(wish.video.width, wish.video.height)
    _, height, width = shapes["video"]
    most_video, most_audio = max(len(c.latents) for c in chunks), max(len(c.audio_latents) for c in chunks)
    return FilmPlan(
        wish=wish,
        clock=clock,
        scenes=scenes,
        chunks=chunks,
        branches=guidance(wish.sampling).branches,
        sigmas=sigmas(wish.sampling, model.audio_lag),
        latent_shapes=shapes,
        sites=tuple(model.denoiser.sites(height, width, most_video, most_audio)),
    )


def kv_bytes(plan: FilmPlan, model: FilmModel) -> int:
    """Bytes of the KV store that `plan` needs, from the first chunk to the last."""
    return store_bytes(plan.sites, model.plan, num_branches=len(plan.branches), item_bytes=model.dtype.itemsize)


def check_prompts(wish: Storyboard, model: FilmModel) -> None:
    """Raise one `SpecError` that names every prompt the model cannot read."""
    mistakes = []
    for index, scene in enumerate(wish.scenes):
        try:
            model.text.check(scene.prompt)
        except SpecError as error:
            mistakes.append(f"scenes[{index}].prompt: {error}")
    if mistakes:
        raise SpecError("\n".join(mistakes))


def guidance(sampling: SamplingSpec) -> Guidance:
    """The guidance that a wish means: one scale for the prompt, or scales for each stream and kind."""
    wish = sampling.guidance
    if not isinstance(wish, GuidanceSpec):
        return ClassifierFree(wish)
    scales = {
        name: StreamScales(prompt, wish.modality, wish.stg, wish.rescale)
        for name, prompt in (("video", wish.video), ("audio", wish.audio))
    }
    return PerStream(scales, wish.stg_blocks)


def sigmas(sampling: SamplingSpec, audio_lag: float) -> Levels:
    """The noise levels that a wish's schedule means, down to 0; levels that it spells out hold for both streams."""
    match sampling.schedule:
        case "linear":
            return noise_levels(sampling.steps, audio_lag=audio_lag)
        case "shifted":
            return noise_levels(sampling.steps, sampling.shift, audio_lag)
        case levels:
            return dict.fromkeys(("video", "audio"), (*levels, 0.0))
