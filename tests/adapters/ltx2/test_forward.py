"""LTX-2 with longtake's attention equals diffusers' forward pass for both streams, on one and several ranks."""

from fractions import Fraction
from functools import partial

import pytest
import torch

from longtake.jobs.bench.ltx2_parity import CLOCK, MIXED, SHAPES, SIZE, TEXT_TOKENS, UNIFORM, pass_difference, prompt
from longtake.pipeline.adapters.ltx2.denoiser import LTX2Denoiser
from longtake.pipeline.attention import fused
from longtake.pipeline.attention.context import ChunkCausalContext, ChunkLengths
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import plan_chunks, plan_scenes
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.testing.ltx2 import FORMS, tiny_transformer
from longtake.pipeline.testing.thread_ranks import run_threads
from tests.adapters.called import called_in

GANGS = [Degrees(ulysses=2), Degrees(ulysses=3), Degrees(ring=2), Degrees(ring=3), Degrees(2, 2)]
PARTS = (("latents", 1), ("sigma", 1), ("times_s", 0))


def of_chunk(chunk, sigma):
    torch.manual_seed(chunk.index)
    times_s = {"video": CLOCK.video_times(chunk), "audio": CLOCK.audio_times(chunk)}
    latents = {name: torch.randn(1, len(times_s[name]), *shape) for name, shape in SHAPES.items()}
    return {
        name: Stream(x, torch.full(x.shape[:2], sigma), torch.tensor(times_s[name], dtype=torch.float64))
        for name, x in latents.items()
    }


@pytest.mark.parametrize("cross_timestep", [True, False])
@pytest.mark.parametrize("levels", [UNIFORM, MIXED], ids=["one level", "clean latents among noisy ones"])
@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
@pytest.mark.parametrize("form", FORMS)
def test_both_velocities_equal_those_of_diffusers(form, rope_type, levels, cross_timestep):
    assert pass_difference(form, rope_type, levels, cross_timestep) <= 1e-5


@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
@pytest.mark.parametrize("form", FORMS)
def test_a_pass_in_the_fused_kernels_of_a_gpu_equals_that_of_diffusers(form, rope_type, monkeypatch):
    monkeypatch.setattr(fused, "_fuses", lambda _: True)
    assert pass_difference(form, rope_type, MIXED, True) <= 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("form", FORMS)
def test_blocks_and_their_layers_are_called_as_modules(form):
    denoiser = LTX2Denoiser(tiny_transformer(form), TEXT_TOKENS)
    chunk = plan_chunks(CLOCK, plan_scenes(CLOCK, [Fraction(CLOCK.frames(2), 24)], [True]), 2)[0]
    store = KVStore(denoiser.sites(*SIZE, 2, len(chunk.audio_latents)), KVPlan(1), denoiser.rope)

    def run():
        with store.open(chunk, "guided") as context:
            predict(denoiser, of_chunk(chunk, 0.6), prompt(denoiser.ltx), context)

    missing = called_in(denoiser.ltx.transformer_blocks, run)
    assert not missing, "LoRAs and offloading hook them"


@pytest.mark.parametrize("degrees", GANGS, ids=str)
@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
@pytest.mark.parametrize("form", FORMS)
def test_ranks_with_sharded_video_and_replicated_sound_agree_with_one_rank(form, rope_type, degrees):
    act = partial(pass_difference, form, rope_type, MIXED, True, heads=3)
    assert max(run_threads(lambda parallel: act(parallel=parallel), degrees)) <= 1e-5


@pytest.mark.parametrize("sink", [0, 1])
@torch.inference_mode()
def test_a_chunk_with_cached_past_equals_the_last_chunk_of_a_chunk_causal_pass(sink):
    clock, plan = CLOCK, KVPlan(window=1, sink=sink)
    chunks = plan_chunks(clock, plan_scenes(clock, [Fraction(clock.frames(8), 24)], [True]), 2)
    denoiser = LTX2Denoiser(tiny_transformer("2.0"), TEXT_TOKENS, cross_timestep=False)  # a level for every latent
    text, sigmas = prompt(denoiser.ltx), [0.0, 0.0, 0.0, 0.6]
    given = [of_chunk(chunk, sigma) for chunk, sigma in zip(chunks, sigmas, strict=True)]
    most = max(len(chunk.audio_latents) for chunk in chunks)
    store = KVStore(denoiser.sites(*SIZE, 2, most), plan, denoiser.rope)
    for chunk, streams_of, sigma in zip(chunks, given, sigmas, strict=True):
        with store.open(chunk, "guided", write=sigma == 0) as context:
            velocity = predict(denoiser, streams_of, text, context)
            if sigma == 0:
                context.commit()
    lengths = [
        ChunkLengths(
            {"video": len(chunk.latents) * SIZE[0] * SIZE[1], "audio": len(chunk.audio_latents)},
            chunk.start_s,
            chunk.stop_s,
        )
        for chunk in chunks
    ]
    joined = {
        name: Stream(*(torch.cat([getattr(of[name], key) for of in given], dim=dim) for key, dim in PARTS))
        for name in ("video", "audio")
    }
    whole = predict(denoiser, joined, text, ChunkCausalContext(lengths, plan, denoiser.rope))
    for name, x in velocity.items():
        assert float((whole[name][:, -x.shape[1] :] - x).abs().max()) <= 1e-5
