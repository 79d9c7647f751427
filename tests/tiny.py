"""Small films and models that tests share."""

from collections.abc import Sequence
from fractions import Fraction

import torch

from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.parallel.gang import ONE_RANK
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.guidance import ClassifierFree
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.schedule import noise_levels
from longtake.pipeline.sampling.solver import Euler
from longtake.pipeline.values import LatentChunk, PromptEmbedding

FPS = Fraction(16)
LATENT_SIZE = 4
SHAPES = {"video": (TINY.denoiser.video_channels, LATENT_SIZE, LATENT_SIZE), "audio": (TINY.denoiser.audio_channels,)}


def tiny_model(dtype: torch.dtype = torch.float64, seed: int = 0) -> EmbeddedModel:
    return EmbeddedModel.untrained(TINY, seed).to(dtype)


def tiny_chunks(
    clock: MediaClock, durations_s: Sequence[float], cuts: Sequence[bool], chunk_latents: int = 4
) -> tuple[ChunkSpan, ...]:
    scenes = plan_scenes(clock, [Fraction(duration).limit_denominator(1000) for duration in durations_s], cuts)
    return plan_chunks(clock, scenes, chunk_latents)


def tiny_store(model: EmbeddedModel, plan: KVPlan, chunks: Sequence[ChunkSpan], chunk_latents: int = 4) -> KVStore:
    most_audio = max(len(chunk.audio_latents) for chunk in chunks)
    sites = model.denoiser.sites(LATENT_SIZE, LATENT_SIZE, chunk_latents, most_audio)
    dtype = next(model.parameters()).dtype
    return KVStore(sites, plan, model.denoiser.rope, branches=("guided", "unguided"), dtype=dtype)


def tiny_rollout(
    model: EmbeddedModel, store: KVStore, clock: MediaClock, steps: int = 2, seed: int = 5
) -> CausalEngine:
    sampling = Sampling(noise_levels(steps, 2.5, audio_lag=0.5), Euler(), ClassifierFree(2.0), KeyedNoise(seed))
    return CausalEngine(ShardedDenoiser(model.denoiser, ONE_RANK), store, clock, sampling, SHAPES)


def prompts(model: EmbeddedModel, text: str) -> dict[str, PromptEmbedding]:
    with torch.inference_mode():
        return {
            "guided": PromptEmbedding(text, model.text.embed(text)),
            "unguided": PromptEmbedding("", model.text.embed("")),
        }


def random_latents(chunk: ChunkSpan, dtype: torch.dtype = torch.float64, seed: int = 1) -> LatentChunk:
    noise = KeyedNoise(seed)
    return LatentChunk(
        chunk,
        noise.draw("video", chunk.latents, SHAPES["video"]).to(dtype),
        noise.draw("audio", chunk.audio_latents, SHAPES["audio"]).to(dtype),
    )
