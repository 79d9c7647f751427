"""Wan in our pipeline, compared with diffusers' own code: single passes, clips, and its video codec in chunks.

Shapes: b batch, f latent frames, c channels, h w latent height and width, n frames, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.adapters.wan.model import WanModel, open_folder
from longtake.pipeline.adapters.wan.video_codec import WanVideoCodec
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.protocols import BlockDenoiser, Stream, StreamDecoder
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.guidance import ClassifierFree, Guidance
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.solver import Euler
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import (
    CONDITION_CHANNELS,
    IMAGE_WIDTH,
    LATENT_CHANNELS,
    TEXT_WIDTH,
    Form,
    Kind,
    one_chunk,
    tiny_pipeline,
    tiny_transformer,
    tiny_vae,
)
from longtake.pipeline.values import LatentChunk, PromptEmbedding
from longtake.pipeline.weights.options import LoadOptions

LATENTS, SIZE, TEXT, IMAGE = 5, (4, 6), 512, 7
"""Sizes of a pass: latent frames, their height and width, text tokens, image tokens."""

CHUNK, CLOCK = one_chunk(LATENTS)
NOISE, PROMPT, STEPS, GUIDANCE = KeyedNoise(9), "a red circle", 4, 2.5
ONE_SCALE = ClassifierFree(GUIDANCE)
CLIPS: Mapping[Kind, tuple[int, int]] = {"2.1": (48, 32), "5b": (96, 64), "a14b": (48, 32)}
"""Width and height of a clip for each kind of weights."""


@dataclass(frozen=True)
class PassCase:
    """One kind of denoiser.

    Args:
        condition_channels: condition channels that are concatenated to each latent.
        image: whether it attends to the image tokens of CLIP.
    """

    form: Form
    condition_channels: int = 0
    image: bool = False


PASSES = {
    "Wan 2.1": PassCase("2.1"),
    "Wan 2.2 5B": PassCase("2.2"),
    "Wan 2.1 I2V": PassCase("2.1", CONDITION_CHANNELS, True),
    "Wan 2.2 I2V A14B": PassCase("2.1", CONDITION_CHANNELS),
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers that depend only on shape and seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def streams_of(case: PassCase, sigma: Tensor) -> dict[str, Stream]:
    """The input of that denoiser at noise levels [1 f] or [1 1]."""

    def stream(latents: Tensor, level: Tensor) -> Stream:
        return Stream(latents, level.expand(latents.shape[:2]), torch.tensor(CLOCK.video_times(CHUNK)))

    found = {
        "video": stream(randn(1, LATENTS, LATENT_CHANNELS[case.form], *SIZE), sigma),
        "audio": Stream(torch.zeros(1, 9, 0), torch.zeros(1, 9), torch.zeros(9)),
    }
    if case.condition_channels:
        found["condition"] = stream(randn(1, LATENTS, case.condition_channels, *SIZE, seed=1), torch.zeros(1))
    if case.image:
        found["image"] = Stream(randn(1, IMAGE, IMAGE_WIDTH, seed=2), torch.zeros(1, IMAGE), torch.zeros(IMAGE))
    return found


def our_pass(denoiser: BlockDenoiser, streams: Mapping[str, Stream], text: Tensor) -> Tensor:
    """The video velocity of one clean chunk."""
    store = KVStore(denoiser.sites(*SIZE, LATENTS, 0), KVPlan(1), denoiser.rope)
    with store.open(CHUNK, "guided", write=True) as context:
        velocities = predict(denoiser, streams, text, context)
        context.commit()
    assert velocities["audio"].shape == (1, 9, 0)
    return velocities["video"]


def their_pass(transformer: Any, streams: Mapping[str, Stream], timestep: Tensor, text: Tensor) -> Tensor:
    """The same from diffusers' own forward."""
    channels = [streams[name].latents for name in ("video", "condition") if name in streams]
    image = streams["image"].latents if "image" in streams else None
    x = torch.cat(channels, dim=2).transpose(1, 2)
    out: Tensor = transformer(x, timestep, text, image, return_dict=False)[0]
    return out.transpose(1, 2)


@torch.inference_mode()
def pass_difference(case: PassCase, sigma: Tensor | None = None) -> float:
    """The largest difference between our pass of a tiny random model and diffusers'.

    Args:
        sigma: a noise level for each latent [1 f], as TI2V-5B takes it; None is one level for all.
    """
    text, level = randn(1, TEXT, TEXT_WIDTH, seed=3), torch.tensor([[0.6]]) if sigma is None else sigma
    streams, transformer = (
        streams_of(case, level),
        tiny_transformer(case.form, extra=case.condition_channels, image=case.image),
    )
    tokens = SIZE[0] * SIZE[1] // 4
    timestep = 1000 * (level[0] if sigma is None else level.repeat_interleave(tokens, dim=1))
    expected = their_pass(transformer, streams, timestep, text)
    assert expected.std() > 0.1, "a pass near zero would prove nothing"
    denoiser = WanDenoiser(transformer)
    return float((our_pass(denoiser, streams, denoiser.project(text)) - expected).abs().max())


@dataclass(frozen=True)
class Clip:
    """A clip that diffusers' pipeline rendered.

    Args:
        folder: its weights.
        levels: noise levels, down to 0.
        latents: [f c h w].
        frames: [n 3 H W] in -1..1.
    """

    kind: Kind
    folder: Path
    levels: list[float]
    latents: Tensor
    frames: Tensor


def their_clip(kind: Kind, folder: Path, low_noise_guidance: float | None = None) -> Clip:
    """Render a clip with a tiny random model and save its weights to `folder`.

    Args:
        low_noise_guidance: guidance of the second expert; None is that of the first.
    """
    pipeline, (width, height) = tiny_pipeline(kind), CLIPS[kind]
    model = open_folder(save(pipeline, folder), LoadOptions())
    noise = NOISE.draw("video", range(LATENTS), model.latent_shapes(width, height)["video"])
    asked = {"prompt": PROMPT, "width": width, "height": height, "num_frames": 1 + 4 * (LATENTS - 1)}
    asked |= {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "return_dict": False}
    asked["guidance_scale_2"] = low_noise_guidance
    asked["latents"] = noise.transpose(0, 1).unsqueeze(0)
    latents = pipeline(**asked, output_type="latent")[0]
    frames = pipeline(**asked, output_type="pt")[0]
    return Clip(kind, folder, pipeline.scheduler.sigmas.tolist(), latents[0].transpose(0, 1), 2 * frames[0] - 1)


@cache
def _opened(folder: Path) -> WanModel:
    """The model of a clip's folder, which all ranks of this process share."""
    model = open_folder(folder, LoadOptions())
    assert isinstance(model, WanModel), "their_clip saved it"
    return model


@torch.inference_mode()
def our_clip(clip: Clip, parallel: Parallel = ONE_RANK, guidance: Guidance = ONE_SCALE) -> tuple[WanModel, LatentChunk]:
    """The same clip as one chunk of a causal rollout, on each rank of `parallel`, and its model."""
    model = _opened(clip.folder)
    chunk, clock = one_chunk(LATENTS, fps=int(model.limits.max_fps))
    shapes = model.latent_shapes(*CLIPS[clip.kind])
    _, height, width = shapes["video"]
    sites = model.denoiser.sites(height, width, LATENTS, len(chunk.audio_latents))
    texts = {"guided": PROMPT, "unguided": ""}
    branches = parallel.branches(texts)
    store = KVStore(sites, model.kv_plan, model.denoiser.rope, branches=branches, dtype=model.dtype, parallel=parallel)
    sampling = Sampling(dict.fromkeys(shapes, clip.levels), Euler(), guidance, NOISE)
    rollout = CausalEngine(ShardedDenoiser(model.denoiser, parallel), store, clock, sampling, shapes, parallel)
    prompts = {branch: PromptEmbedding(text, model.text.embed(text)) for branch, text in texts.items()}
    return model, rollout.denoise(chunk, prompts)


def decoded_in_chunks(codec: StreamDecoder, latents: Tensor, borders: list[int]) -> Tensor:
    """Frames [1 n 3 H W] of latents [1 f c h w], or sound [c n] of latents [1 l c], decoded in chunks.

    Args:
        borders: where each chunk but the first starts.
    """
    frames, state = [], None
    for start, stop in pairwise([0, *borders, latents.shape[1]]):
        chunk, state = codec.decode(latents[:, start:stop], state, stop == latents.shape[1])
        frames.append(chunk)
    return torch.cat(frames, dim=1)


@torch.inference_mode()
def decoded_difference(clip: Clip, model: WanModel, latents: LatentChunk) -> float:
    """The largest difference between our frames, decoded latent by latent, and diffusers'."""
    frames = decoded_in_chunks(model.video_codec, latents.video.unsqueeze(0), [*range(1, LATENTS)])
    return float((frames[0] - clip.frames).abs().max())


@torch.inference_mode()
def chunked_difference(form: Form, num_latents: int = 12) -> float:
    """The largest difference, in float64, between a decode in uneven chunks and diffusers' decode of the whole."""
    codec = WanVideoCodec(tiny_vae(form, torch.float64))
    latents = randn(1, num_latents, LATENT_CHANNELS[form], 2, 3).double()
    return float((decoded_in_chunks(codec, latents, [1, 3, 8]) - decoded_at_once(codec, latents)).abs().max())


def decoded_at_once(codec: WanVideoCodec, latents: Tensor) -> Tensor:
    """Frames [1 n 3 H W] of latents [1 f c h w], as diffusers' pipeline decodes a clip."""
    config, shape = codec.vae.config, (1, -1, 1, 1, 1)
    mean = torch.tensor(config.latents_mean).to(latents.dtype).view(shape)
    std = torch.tensor(config.latents_std).to(latents.dtype).view(shape)
    frames: Tensor = codec.vae.decode(latents.transpose(1, 2) * std + mean, return_dict=False)[0]
    return frames.transpose(1, 2)
