"""LTX-2 in our pipeline, compared with diffusers' own code: single passes, clips, codecs.

diffusers rounds seconds to float32, which rotates its fastest channels by a thousandth of a radian. So in single passes
both get the positions in float64. diffusers' pipeline cannot take positions, so clips use low frequencies instead (a
theta of 100).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from longtake.jobs.bench.wan_parity import decoded_in_chunks
from longtake.pipeline.adapters.ltx2.codecs import LTX2SoundCodec, LTX2VideoCodec
from longtake.pipeline.adapters.ltx2.denoiser import LTX2Denoiser, text_widths
from longtake.pipeline.attention.context import Pass
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.guidance import PerStream, StreamScales
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.solver import Euler
from longtake.pipeline.testing.ltx2 import (
    AUDIO_CHANNELS,
    AUDIO_MEL,
    CAPTION_WIDTH,
    LATENT_CHANNELS,
    TEXT_LAYERS,
    Form,
    one_chunk,
    tiny_audio_vae,
    tiny_pipeline,
    tiny_transformer,
    tiny_video_vae,
    tiny_vocoder,
    tiny_wide_vocoder,
)
from longtake.pipeline.values import PromptEmbedding

SIZE, LATENTS, TEXT_TOKENS, CLIP_TEXT_TOKENS, THETA = (2, 3), 3, 5, 8, 100.0
CHUNK, CLOCK = one_chunk(LATENTS)
AUDIO = len(CHUNK.audio_latents)
SHAPES = {"video": (LATENT_CHANNELS, *SIZE), "audio": (AUDIO_CHANNELS * AUDIO_MEL,)}

Levels = Mapping[str, Sequence[float]]
UNIFORM: Levels = {"video": [0.7] * LATENTS, "audio": [0.4] * AUDIO}
MIXED: Levels = {"video": [0.0, 0.7, 0.7], "audio": [0.0, 0.0] + [0.4] * (AUDIO - 2)}
"""Clean latents followed by noisy ones."""

SIGMAS = (1.0, 0.7, 0.4, 0.2)
NO_STREAM = StreamScales()
GUIDANCE: Mapping[str, Mapping[str, StreamScales]] = {
    "none": {"video": NO_STREAM, "audio": NO_STREAM},
    "prompt": {"video": StreamScales(prompt=3.0), "audio": StreamScales(prompt=7.0)},
    "modality": {"video": StreamScales(modality=3.0), "audio": StreamScales(modality=2.0)},
    "stg": {"video": StreamScales(stg=1.0), "audio": StreamScales(stg=0.5)},
    "all, rescaled": {"video": StreamScales(3.0, 3.0, 1.0, 0.7), "audio": StreamScales(7.0, 2.0, 0.5, 0.6)},
}


def streams(levels: Levels) -> dict[str, Stream]:
    """Random latents of one chunk at the given noise levels."""
    generator = torch.Generator().manual_seed(3)
    times_s = {"video": CLOCK.video_times(CHUNK), "audio": CLOCK.audio_times(CHUNK)}
    lengths = {"video": LATENTS, "audio": AUDIO}
    return {
        name: Stream(
            torch.randn(1, lengths[name], *shape, generator=generator),
            torch.tensor([levels[name]]),
            torch.tensor(times_s[name], dtype=torch.float64),
        )
        for name, shape in SHAPES.items()
    }


def prompt(transformer: Any) -> Tensor:
    """Random prompts of both streams, concatenated [1 t d]."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(1, TEXT_TOKENS, sum(text_widths(transformer.config)), generator=generator)


def their_pass(
    transformer: Any, streams: Mapping[str, Stream], text: Tensor, cross_timestep: bool
) -> dict[str, Tensor]:
    """diffusers' forward, with a noise level for each token."""
    video, audio = streams["video"], streams["audio"]
    video_text, audio_text = torch.split(text, text_widths(transformer.config), dim=-1)
    coords = transformer.rope.prepare_video_coords(1, LATENTS, *SIZE, video.latents.device, fps=24.0).double()
    coords[:, 0] = (coords[:, 0] * 24).round() / 24
    sound = transformer.audio_rope.prepare_audio_coords(1, AUDIO, video.latents.device).double()
    picture, sounding = transformer(
        rearrange(video.latents, "b f c h w -> b (f h w) c"),
        audio.latents,
        video_text,
        audio_text,
        timestep=1000 * video.sigma.repeat_interleave(SIZE[0] * SIZE[1], dim=1),
        audio_timestep=1000 * audio.sigma,
        sigma=1000 * video.sigma.amax(dim=1),
        audio_sigma=1000 * audio.sigma.amax(dim=1),
        video_coords=coords,
        audio_coords=(sound * 100).round() / 100,
        use_cross_timestep=cross_timestep,
        return_dict=False,
    )
    return {"video": rearrange(picture, "b (f h w) c -> b f c h w", f=LATENTS, h=SIZE[0]), "audio": sounding}


@torch.inference_mode()
def pass_difference(
    form: Form,
    rope_type: str,
    levels: Levels = MIXED,
    cross_timestep: bool = True,
    parallel: Parallel = ONE_RANK,
    heads: int = 2,
) -> float:
    """The largest difference between this rank's velocities, of both streams, and diffusers'."""
    inputs, transformer = streams(levels), tiny_transformer(form, rope_type, heads=heads)
    text = prompt(transformer)
    expected = their_pass(transformer, inputs, text, cross_timestep)
    denoiser = LTX2Denoiser(tiny_transformer(form, rope_type, heads=heads), TEXT_TOKENS, cross_timestep)
    store = KVStore(denoiser.sites(*SIZE, LATENTS, AUDIO), KVPlan(1), denoiser.rope, parallel=parallel)
    with store.open(CHUNK, "guided") as context:
        found = ShardedDenoiser(denoiser, parallel)(inputs, text, context, Pass(0, "guided"))
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def embeddings() -> tuple[Tensor, Tensor]:
    """Random embeddings of a prompt and of the shorter empty prompt, padded on the left; a mask of the tokens."""
    embedded = torch.randn(
        2, CLIP_TEXT_TOKENS, CAPTION_WIDTH * (TEXT_LAYERS + 1), generator=torch.Generator().manual_seed(6)
    )
    seen = torch.ones(2, CLIP_TEXT_TOKENS, dtype=torch.int64)
    seen[0, :3] = seen[1, :6] = 0
    return embedded, seen


def their_clip(scales: Mapping[str, StreamScales]) -> tuple[Tensor, Tensor]:
    """Video latents [f c h w] and audio latents [l c] of diffusers' pipeline."""
    (embedded, seen), keyed = embeddings(), KeyedNoise(7)
    picture = keyed.draw("video", CHUNK.latents, SHAPES["video"]).unsqueeze(0)
    sound = keyed.draw("audio", CHUNK.audio_latents, SHAPES["audio"]).unsqueeze(0)
    pipeline = tiny_pipeline(theta=THETA)
    for vae in (pipeline.vae, pipeline.audio_vae):  # latents go in and come out as the transformer has them
        vae.latents_mean.zero_()
        vae.latents_std.fill_(1)
    video, audio = scales["video"], scales["audio"]
    picture, sound = pipeline(
        prompt_embeds=embedded[:1],
        prompt_attention_mask=seen[:1],
        negative_prompt_embeds=embedded[1:],
        negative_prompt_attention_mask=seen[1:],
        latents=rearrange(picture, "b f c h w -> b c f h w"),
        audio_latents=rearrange(sound, "b l (c m) -> b c l m", c=AUDIO_CHANNELS),
        height=32,  # the latents decide the size
        width=32,
        num_frames=CLOCK.frames(LATENTS),
        sigmas=list(SIGMAS),
        num_inference_steps=len(SIGMAS),
        guidance_scale=video.prompt,
        modality_scale=video.modality,
        stg_scale=video.stg,
        guidance_rescale=video.rescale,
        audio_guidance_scale=audio.prompt,
        audio_modality_scale=audio.modality,
        audio_stg_scale=audio.stg,
        audio_guidance_rescale=audio.rescale,
        spatio_temporal_guidance_blocks=[1],
        output_type="latent",
        return_dict=False,
    )
    return rearrange(picture, "1 c f h w -> f c h w"), rearrange(sound, "1 c l m -> l (c m)")


def our_clip(scales: Mapping[str, StreamScales]) -> tuple[Tensor, Tensor]:
    """The same clip as one chunk of a causal rollout."""
    guidance = PerStream(scales, stg_layers=[1])
    with torch.inference_mode():
        video, audio, _ = tiny_pipeline(theta=THETA).connectors(*embeddings())
    prompts = {
        branch: PromptEmbedding(branch, torch.cat((video, audio), dim=-1)[int(branch == "unguided")])
        for branch in guidance.branches
    }
    denoiser = LTX2Denoiser(tiny_transformer("2.3", theta=THETA), CLIP_TEXT_TOKENS)
    store = KVStore(denoiser.sites(*SIZE, LATENTS, AUDIO), KVPlan(1), denoiser.rope, branches=guidance.branches)
    sigmas = dict.fromkeys(SHAPES, (*SIGMAS, 0.0))
    rollout = CausalEngine(
        ShardedDenoiser(denoiser, ONE_RANK), store, CLOCK, Sampling(sigmas, Euler(), guidance, KeyedNoise(7)), SHAPES
    )
    latents = rollout.denoise(CHUNK, prompts)
    return latents.video, latents.audio


def clip_difference(scales: Mapping[str, StreamScales]) -> float:
    """The largest difference between our latents of a clip, of both streams, and diffusers'."""
    return max(float((a - b).abs().max()) for a, b in zip(our_clip(scales), their_clip(scales), strict=True))


def pictures_at_once(codec: LTX2VideoCodec, latents: Tensor) -> Tensor:
    """Frames [1 n 3 H W] of latents [1 f c h w], as diffusers' pipeline decodes a clip."""
    mean, std = (rearrange(x, "c -> c 1 1") for x in (codec.vae.latents_mean, codec.vae.latents_std))
    frames: Tensor = codec.vae.decode(rearrange(latents * std + mean, "b f c h w -> b c f h w")).sample
    return rearrange(frames, "b c n h w -> b n c h w")


def sound_at_once(codec: LTX2SoundCodec, latents: Tensor) -> Tensor:
    """Sound [c n] of latents [1 l c], as diffusers' pipeline decodes a clip."""
    x = latents * codec.vae.latents_std + codec.vae.latents_mean
    mels = codec.vae.decode(rearrange(x, "b l (c m) -> b c l m", c=AUDIO_CHANNELS)).sample
    sound: Tensor = codec.vocoder(mels)[0]
    return sound


@torch.inference_mode()
def chunked_differences() -> dict[str, float]:
    """By codec: the largest difference, in float64, between a decode in uneven chunks and diffusers' of the whole."""
    generator, found = torch.Generator().manual_seed(4), {}
    for name, causal in (("looks ahead", False), ("is causal", True)):
        pictures = LTX2VideoCodec(tiny_video_vae(causal).double())
        latents = torch.randn(1, 30, LATENT_CHANNELS, 1, 2, generator=generator, dtype=torch.float64)
        difference = decoded_in_chunks(pictures, latents, [1, 3, 20]) - pictures_at_once(pictures, latents)
        found[f"LTX-2's video codec that {name}"] = float(difference.abs().max())
    for form, vocoder in (("2.0", tiny_vocoder()), ("2.3", tiny_wide_vocoder())):
        sounds = LTX2SoundCodec(tiny_audio_vae().double(), vocoder.double())
        audio = torch.randn(1, 130, AUDIO_CHANNELS * AUDIO_MEL, generator=generator, dtype=torch.float64)
        whole = sound_at_once(sounds, audio)
        difference = decoded_in_chunks(sounds, audio, [1, 2, 8, 60])[:, : whole.shape[1]] - whole
        found[f"LTX-2's sound codec and vocoder, {form}"] = float(difference.abs().max())
    return found
