"""The plan of a film: everything that is known before its first chunk, from a storyboard, a clock and a model."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor, prod
from typing import Self

from longtake.pipeline.adapters.presets import lora_preset
from longtake.pipeline.attention.kv_plan import KVPlan, SiteLayout, store_bytes
from longtake.pipeline.clock import (
    ChunkSpan,
    MediaClock,
    SceneSpan,
    looked_ahead,
    plan_before,
    plan_chunks,
    plan_scenes,
)
from longtake.pipeline.durations import seconds_at
from longtake.pipeline.errors import SpecError
from longtake.pipeline.given_files import ConditioningFile
from longtake.pipeline.models.limits import ModelDefaults, check_against, sources_of, with_defaults
from longtake.pipeline.models.protocols import FilmModel, StreamDecoder
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.traffic import GangTraffic, gang_traffic
from longtake.pipeline.rollouts import Rollout
from longtake.pipeline.sampling.accelerate import Accelerated, Weights, accelerated
from longtake.pipeline.sampling.guidance import (
    CROSS_KINDS,
    ROUNDING,
    SELF_KINDS,
    ByNoiseLevel,
    ClassifierFree,
    Guidance,
    PerStream,
    StreamScales,
)
from longtake.pipeline.sampling.schedule import Levels, restart_step, sigmas
from longtake.pipeline.sampling.solver import solver_named
from longtake.pipeline.sampling.step_plan import Setting
from longtake.pipeline.sampling_spec import GuidanceSpec, SamplingSpec
from longtake.pipeline.spec import Storyboard


@dataclass(frozen=True)
class DecoderReach:
    """How far a model's decoders reach beyond the latents that they decode.

    Args:
        video: video latents before them.
        audio: audio latents before them.
        lookahead: video latents after them.
    """

    video: int
    audio: int
    lookahead: int

    @classmethod
    def of(cls, video: StreamDecoder, sound: StreamDecoder) -> Self:
        """The reach of these two decoders."""
        return cls(video.left_context, sound.left_context, video.lookahead)


@dataclass(frozen=True)
class FilmPlan:
    """Everything about a film that is known before its first chunk.

    Args:
        before: the chunks of the film that it continues, numbered from below 0; they are finished.
        guidance: the passes of a step, and how their velocities are combined.
        sigmas: noise levels of each stream, from 1 to 0.
        latent_shapes: the shape of one latent by stream.
        rollout: how chunks follow each other.
        kv_plan: what the KV store keeps of finished chunks.
        sites: the attention sites, with the page sizes that the KV store needs.
        reach: of the decoders.
        setting: the passes of a chunk, as step plans see them.
        steps: the step plan, and what the user should know about it.
        decode_batch: chunks whose pictures are decoded in one pass, counted from the beginning of each section.
        sources: where each setting is taken from; see `sources_of`.
    """

    storyboard: Storyboard
    clock: MediaClock
    scenes: tuple[SceneSpan, ...]
    chunks: tuple[ChunkSpan, ...]
    before: tuple[ChunkSpan, ...]
    guidance: Guidance
    sigmas: Levels
    latent_shapes: dict[str, tuple[int, ...]]
    rollout: Rollout
    kv_plan: KVPlan
    sites: tuple[SiteLayout, ...]
    reach: DecoderReach
    setting: Setting
    steps: Accelerated
    decode_batch: int = 1
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def branches(self) -> tuple[str, ...]:
        """Guidance passes, "guided" first."""
        return self.guidance.branches

    @property
    def num_frames(self) -> int:
        """Frames of the film."""
        return self.chunks[-1].frames.stop

    @property
    def num_samples(self) -> int:
        """Sound samples of the film."""
        return self.chunks[-1].samples.stop

    def chunk_bytes(self, chunk: ChunkSpan) -> int:
        """The most bytes that `chunk` takes between the acts: latents, frames, larger frames, sound and packets."""
        latents = len(chunk.latents) * prod(self.latent_shapes["video"])
        latents += len(chunk.audio_latents) * prod(self.latent_shapes["audio"])
        frames = len(chunk.frames) * self.storyboard.video.width * self.storyboard.video.height * 3
        scale = self.storyboard.output.upscale
        shown = 2 * frames if scale is None else (1 + 2 * scale**2) * frames
        return 4 * latents + shown + 2 * 4 * (len(chunk.samples) + 2 * self.clock.audio_stride)

    @property
    def num_steps(self) -> int:
        """Denoising steps of one chunk."""
        return len(self.sigmas["video"]) - 1

    @property
    def num_passes(self) -> int:
        """Passes of one chunk in all branches, without restarts: its steps, and any clean pass."""
        return len(self.branches) * (self.num_steps + int(self.rollout.has_clean_pass))

    def passes(self, chunk: ChunkSpan) -> int:
        """Passes of `chunk` in one branch, with the steps that restarts repeat in the first chunk of a section."""
        restarts = self.storyboard.sampling.restarts if chunk.index == chunk.section else 0
        repeated = restarts * (self.num_steps - restart_step(self.sigmas)) if restarts else 0
        return self.num_steps + repeated + int(self.rollout.has_clean_pass)

    def seen(self, chunk: ChunkSpan) -> ChunkSpan:
        """What the passes over `chunk` hold: the chunk, and the overlap that it continues."""
        return self.rollout.pass_span(self.clock, self.earlier(chunk), chunk)

    @property
    def longest_pass(self) -> int:
        """Video latents of the longest pass, which decides the page size of the KV store."""
        return max(len(span.latents) for span in self.rollout.all_passes(self.clock, self.before, self.chunks))

    def span(self, index: int) -> ChunkSpan:
        """The chunk with a number, in the film or before it."""
        return self.before[index] if index < 0 else self.chunks[index]

    def earlier(self, chunk: ChunkSpan) -> list[ChunkSpan]:
        """The chunks before `chunk` in its section, in order."""
        return [self.span(index) for index in range(chunk.section, chunk.index)]

    def history(self, chunk: ChunkSpan) -> list[ChunkSpan]:
        """The chunks whose latents a denoiser needs to resume at `chunk`, in order."""
        return self.rollout.history(self.kv_plan, self.earlier(chunk), chunk)

    def decode_history(self, chunk: ChunkSpan) -> list[ChunkSpan]:
        """The chunks whose latents the decoders need to continue at `chunk`, in order: whole batches, and those of its
        own batch."""
        first = self.batch_start(chunk)
        spans: list[ChunkSpan] = []
        video = audio = 0
        for span in reversed(self.earlier(first)):
            is_enough = video >= self.reach.video and audio >= self.reach.audio
            if spans and is_enough and self.ends_batch(span):
                break
            spans.insert(0, span)
            video, audio = video + len(span.latents), audio + len(span.audio_latents)
        return [*spans, *map(self.span, range(first.index, chunk.index))]

    def decode_ahead(self, chunk: ChunkSpan) -> list[ChunkSpan]:
        """The chunks right after `chunk` whose latents its frames depend on, in order: up to the end of its batch, or
        of the batch that its decoder looks ahead to."""
        batch = self._to_batch_end(chunk)
        ahead = looked_ahead(self.span, batch[-1], self.reach.lookahead)
        return [*batch[1:], *ahead, *(self._to_batch_end(ahead[-1])[1:] if ahead else ())]

    def batch_start(self, chunk: ChunkSpan) -> ChunkSpan:
        """The first of the chunks whose pictures are decoded together with that of `chunk`."""
        return self.span(chunk.index - (chunk.index - chunk.section) % self.decode_batch)

    def ends_batch(self, chunk: ChunkSpan) -> bool:
        """Whether `chunk` is the last of those whose pictures are decoded together."""
        return chunk.ends_section or (chunk.index - chunk.section + 1) % self.decode_batch == 0

    def _to_batch_end(self, chunk: ChunkSpan) -> list[ChunkSpan]:
        """The chunk, and those after it in its batch."""
        spans = [chunk]
        while not self.ends_batch(spans[-1]):
            spans.append(self.span(spans[-1].index + 1))
        return spans

    def frame_history(self, chunk: ChunkSpan, first_frame: int) -> list[ChunkSpan]:
        """The chunks of the section before `chunk` that hold frames from `first_frame` of the film on, in order."""
        return [span for span in self.earlier(chunk) if span.frames.stop > first_frame]

    def upscale_history(self, chunk: ChunkSpan, first_frame: int) -> list[ChunkSpan]:
        """The chunks whose latents an upscaler needs to continue at `chunk`, in order.

        Args:
            first_frame: of the film, from which on the upscaler sees the frames again.
        """
        frames = self.frame_history(chunk, first_frame)
        return [*self.decode_history(frames[0]), *frames] if frames else []

    def traffic(self, chunk: ChunkSpan, degrees: Degrees, item_bytes: int) -> GangTraffic:
        """What a gang of `degrees` sends while it renders `chunk`; `item_bytes` is that of the model's dtype."""
        branches = len(self.branches)
        return gang_traffic(self.sites, self.seen(chunk), self.latent_shapes, degrees, branches, item_bytes)

    def place_of(self, file: ConditioningFile) -> tuple[int, int]:
        """The chunk and the video latent of it at which a scene's file comes in: the last one for a last image, the
        one that shows its moment for a keyframe, and the scene's first for all others."""
        assert file.scene is not None, "only a scene's file has a place"
        chunks = [chunk for chunk in self.chunks if chunk.scene == file.scene]
        if file.kind == "last image":
            return chunks[-1].index, len(chunks[-1].latents) - 1
        if file.at is None:
            return chunks[0].index, 0
        fps = self.storyboard.video.fps
        frame = self.scenes[file.scene].frames.start + floor(seconds_at(file.at, fps) * fps)
        for chunk in chunks:
            if frame < chunk.frames.stop:
                return chunk.index, bisect_right(self.clock.latent_stops(chunk), frame)
        raise SpecError(
            f"{file.key} is shown at {file.at}; scenes[{file.scene}] lasts"
            f" {float(self.clock.seconds(len(self.scenes[file.scene].frames))):g} s, show it earlier"
        )

    def tokens(self, chunk: ChunkSpan) -> int:
        """Tokens that one pass over `chunk` holds, text included."""
        pages: dict[str, int] = {}
        for stream in (stream for site in self.sites for stream in site.streams):
            pages[stream.name] = max(pages.get(stream.name, 0), stream.page_tokens)
        span = self.seen(chunk)
        sound = len(span.audio_latents) if "audio" in pages else 0
        return pages["video"] // self.longest_pass * len(span.latents) + sound + pages["text"]


def latents_before(storyboard: Storyboard, model: FilmModel) -> int:
    """Video latents that are needed of the film that `storyboard` continues: as many as a chunk sees before it."""
    if storyboard.continue_from is None:
        return 0
    return model.rollout.latents_before(model.kv_plan, model.chunk_latents)


def plan_film(storyboard: Storyboard, model: FilmModel) -> FilmPlan:
    """Plan the film of `storyboard`, completed by the model's defaults.

    Raises:
        SpecError: the model cannot render it.
    """
    defaults = defaults_of(storyboard, model)
    sources = sources_of(storyboard, defaults)
    storyboard = with_defaults(storyboard, defaults)
    check_against(storyboard, model.limits)
    check_prompts(storyboard, model)
    clock = model.clock(storyboard.video.fps)
    num_before = latents_before(storyboard, model)
    before = plan_before(clock, num_before, model.chunk_latents)
    scenes = plan_scenes(clock, storyboard.durations_s(), storyboard.cuts(), num_before)
    opening = model.rollout.opening_latents
    chunks = plan_chunks(clock, scenes, model.chunk_latents, before, opening)
    shapes = model.latent_shapes(storyboard.video.width, storyboard.video.height)
    _, height, width = shapes["video"]
    most_video, most_audio = _most_latents(model.rollout.all_passes(clock, before, chunks))
    sites = tuple(model.denoiser.sites(height, width, most_video, most_audio))
    pages = (stream.page_tokens for site in sites for stream in site.streams if stream.name == "video")
    whole = next((page for page in pages if page), 0) // most_video * (model.chunk_latents + opening)
    check_guidance(storyboard.sampling.guidance, model, sites)
    given = storyboard.audio.file is not None or all(scene.is_shown_as_given for scene in storyboard.scenes)
    lag = 0.0 if given else model.audio_lag
    chosen = guidance(storyboard.sampling, model.defaults)
    levels = sigmas(storyboard.sampling, lag, model.defaults.dynamic, whole, storyboard.model)
    setting = setting_of(storyboard, model, levels, chosen.branches, sites)
    steps = Accelerated()
    if storyboard.sampling.accelerate:
        check_accelerate(storyboard, setting)
        weights = Weights(model.name, model.fingerprint())
        steps = accelerated(storyboard.sampling.accelerate, setting, weights)
        sampling = storyboard.sampling.model_copy(update={"accelerate": steps.entries})
        storyboard = storyboard.model_copy(update={"sampling": sampling})
    kv_plan = model.rollout.kv_plan(model.kv_plan)
    plan = FilmPlan(
        storyboard=storyboard,
        clock=clock,
        scenes=scenes,
        chunks=chunks,
        before=before,
        guidance=chosen,
        sigmas=levels,
        latent_shapes=shapes,
        rollout=model.rollout,
        kv_plan=replace(kv_plan, keeps_passes=True) if steps.plan.holds(tuple(setting.tokens)) else kv_plan,
        sites=sites,
        reach=DecoderReach.of(model.video_codec, model.sound_codec),
        setting=setting,
        steps=steps,
        decode_batch=storyboard.output.decode_batch,
        sources=sources,
    )
    check_stills(plan)
    return plan


def check_stills(plan: FilmPlan) -> None:
    """Raise one `SpecError` that names every picture that is given where another one is, or after its scene's end."""
    mistakes, taken = list[str](), dict[tuple[int, int], str]()
    for file in plan.storyboard.conditioning_files():
        if file.kind not in ("image", "keyframe", "last image"):
            continue
        try:
            place = plan.place_of(file)
        except SpecError as error:
            mistakes.append(str(error))
            continue
        if place in taken:
            frames = plan.clock.video_stride
            mistakes.append(
                f"{file.key} is {file.url!r}; {taken[place]} is shown at the same time, as one latent lasts {frames}"
                f" frames ({float(plan.clock.seconds(frames)):g} s); leave one out, or make the scene longer"
            )
        taken[place] = file.key
    if mistakes:
        raise SpecError("\n".join(mistakes))


def setting_of(
    storyboard: Storyboard, model: FilmModel, levels: Levels, branches: tuple[str, ...], sites: Sequence[SiteLayout]
) -> Setting:
    """The passes of one chunk, as step plans see them."""
    tokens: dict[str, int] = {}
    for stream in (stream for site in sites for stream in site.streams):
        if stream.name in levels and stream.page_tokens:
            tokens[stream.name] = max(tokens.get(stream.name, 0), stream.page_tokens)
    seen = solver_named(storyboard.sampling.solver).seen_level
    noisiest = [seen(max(each)) for each in zip(*levels.values(), strict=True)]
    return Setting(
        levels=levels,
        branches=branches,
        num_blocks=max(site.num_layers for site in sites),
        tokens=tokens,
        model=model.name,
        switches=_switches(storyboard, model.defaults.boundary, noisiest[:-1]),
    )


def _switches(storyboard: Storyboard, boundary: float | None, noisiest: Sequence[float]) -> tuple[int, ...]:
    """The steps at which another expert or another LoRA takes over."""

    def used(level: float) -> list[bool]:
        ranges = [lora.noise for lora in storyboard.loras if lora.noise is not None]
        return [boundary is not None and level >= boundary - ROUNDING, *(low < level <= high for high, low in ranges)]

    return tuple(step for step in range(1, len(noisiest)) if used(noisiest[step]) != used(noisiest[step - 1]))


def check_accelerate(storyboard: Storyboard, setting: Setting) -> None:
    """Raise `SpecError` for a method that has nothing to do in this film."""
    names = {entry.method for entry in storyboard.sampling.accelerate}
    if len(setting.branches) == 1 and (idle := sorted(names & {"guidance-interval", "guidance-difference"}, key=str)):
        raise SpecError(
            f"sampling.accelerate: {idle[0]} skips passes of guidance, and sampling.guidance is 1, which has none;"
            " leave it out"
        )
    if len(setting.tokens) == 1 and "freeze" in names:
        raise SpecError(
            f"sampling.accelerate: freeze holds one stream while another one is denoised, and {setting.model} has only"
            f" {next(iter(setting.tokens))}; leave it out"
        )


def defaults_of(storyboard: Storyboard, model: FilmModel) -> ModelDefaults:
    """The model's defaults, or those of a step-distilled LoRA that is in use in the whole film."""
    preset = lora_preset([lora.file for lora in storyboard.loras if lora.scenes is None])
    if preset is None:
        return model.defaults
    sources = {**model.defaults.sources, **dict.fromkeys(preset.settings, f"published: {preset.source}")}
    return replace(model.defaults, **preset.settings, sources=sources)


def unusual_pages(plan: FilmPlan, model: FilmModel) -> dict[str, list[int]]:
    """The video and audio latents of the film's longest pass, if they are not those of a full chunk; else empty.

    They are the page sizes of the KV store. Pages that are not full are attended one by one, and the parts are merged,
    so page sizes decide the last bits of every chunk.
    """
    video, audio = _most_latents(model.rollout.all_passes(plan.clock, plan.before, plan.chunks))
    full = model.chunk_latents + model.rollout.opening_latents
    samples = full * plan.clock.video_stride / plan.clock.fps * plan.clock.sample_rate
    _, height, width = plan.latent_shapes["video"]
    usual = model.denoiser.sites(height, width, full, ceil(samples / plan.clock.audio_stride))
    return {} if plan.sites == tuple(usual) else {"longest pass": [video, audio]}


def _most_latents(passes: Sequence[ChunkSpan]) -> tuple[int, int]:
    return max(len(span.latents) for span in passes), max(len(span.audio_latents) for span in passes)


def kv_bytes(plan: FilmPlan, model: FilmModel) -> int:
    """Bytes of the KV store that `plan` needs, from the first chunk to the last."""
    return store_bytes(plan.sites, plan.kv_plan, branches=plan.branches, item_bytes=model.dtype.itemsize)


def check_prompts(storyboard: Storyboard, model: FilmModel) -> None:
    """Raise one `SpecError` that names every prompt the model cannot read."""
    mistakes = []
    for index, scene in enumerate(storyboard.scenes):
        for key, text in (("prompt", scene.prompt), ("negative", scene.negative)):
            mistakes += _unreadable(f"scenes[{index}].{key}", text, model)
    mistakes += _unreadable("negative", storyboard.negative, model)
    if mistakes:
        raise SpecError("\n".join(mistakes))


def _unreadable(key: str, text: str | None, model: FilmModel) -> list[str]:
    try:
        if text:
            model.text.check(text)
    except SpecError as error:
        return [f"{key}: {error}"]
    return []


def check_guidance(wanted: float | GuidanceSpec, model: FilmModel, sites: Sequence[SiteLayout]) -> None:
    """Raise `SpecError` for a guidance pass that would change nothing, unless it is the model's own default."""
    if not isinstance(wanted, GuidanceSpec) or wanted == model.defaults.guidance:
        return
    layers = {site.kind: site.num_layers for site in sites}
    blocks = max(layers.get(kind, 0) for kind in SELF_KINDS)
    if wanted.modality != 1 and layers.keys().isdisjoint(CROSS_KINDS):
        raise SpecError(
            f"sampling.guidance.modality is {wanted.modality:g}; {model.name} has no attention from one stream to the"
            " other that could be left out, use 1"
        )
    if wanted.stg and (beyond := [block for block in wanted.stg_blocks if block >= blocks]):
        fix = f"use blocks from 0 to {blocks - 1}" if blocks else "leave out stg"
        raise SpecError(f"sampling.guidance.stg_blocks names {beyond}; {model.name} has {blocks} such blocks, {fix}")


def guidance(sampling: SamplingSpec, defaults: ModelDefaults) -> Guidance:
    """The guidance of a storyboard: one scale for the prompt, or scales for each stream and kind."""
    wanted = sampling.guidance
    if not isinstance(wanted, GuidanceSpec):
        if defaults.boundary is None or sampling.guidance_2 is None:
            return ClassifierFree(wanted)
        return ByNoiseLevel(wanted, sampling.guidance_2, defaults.boundary)
    scales = {
        name: StreamScales(prompt, wanted.modality, wanted.stg, wanted.rescale)
        for name, prompt in (("video", wanted.video), ("audio", wanted.audio))
    }
    return PerStream(scales, wanted.stg_blocks)
