"""Step plans on LTX-2: both streams skip the steps that diffusers' hooks skip, and either may be frozen."""

from itertools import pairwise

import pytest
import torch
from diffusers import TaylorSeerCacheConfig

from longtake.jobs.bench.ltx2_parity import AUDIO, CHUNK, CLOCK, LATENTS, SHAPES, SIZE, TEXT_TOKENS, prompt, their_pass
from longtake.jobs.bench.parity_cases import relative
from longtake.pipeline.adapters.ltx2.denoiser import LTX2Denoiser
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.parallel.gang import ONE_RANK
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.engine import Sampling, Scope
from longtake.pipeline.sampling.guidance import ClassifierFree
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.schedule import noise_levels
from longtake.pipeline.sampling.solver import Euler
from longtake.pipeline.sampling.step_cache import StepCache
from longtake.pipeline.sampling.step_methods import TaylorSeer
from longtake.pipeline.sampling.step_plan import Freeze, Setting, Table
from longtake.pipeline.testing.ltx2 import tiny_transformer
from longtake.pipeline.values import PromptEmbedding

STEPS = 8
LEVELS = noise_levels(STEPS, 2.0)
SETTING = Setting(LEVELS, ("guided",), 2, {"video": LATENTS * SIZE[0] * SIZE[1], "audio": AUDIO})


def engine_with(plan, kv_plan=KVPlan(1)):  # noqa: B008 (it is frozen)
    torch.manual_seed(0)
    denoiser = LTX2Denoiser(tiny_transformer("2.3"), TEXT_TOKENS)
    cache = StepCache(plan, SETTING)
    store = KVStore(denoiser.sites(*SIZE, LATENTS, AUDIO), kv_plan, denoiser.rope)
    sampling = Sampling(LEVELS, Euler(), ClassifierFree(1.0), KeyedNoise(7), cache=cache)
    prompts = {"guided": PromptEmbedding("a film", prompt(denoiser.ltx)[0])}
    return CausalEngine(ShardedDenoiser(denoiser, ONE_RANK, cache), store, CLOCK, sampling, SHAPES), prompts


@torch.inference_mode()
def of_diffusers():
    torch.manual_seed(0)
    transformer = tiny_transformer("2.3")
    transformer.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=2,
            disable_cache_before_step=3,
            disable_cache_after_step=STEPS - 1,
            taylor_factors_dtype=torch.float32,
            cache_identifiers=["^proj_out$", "^audio_proj_out$"],
            skip_predict_identifiers=[r"^transformer_blocks\.[^.]+$"],
        )
    )
    engine, _ = engine_with(Table({}, freezes=True))
    values = {name: engine._noise(CHUNK, name, 0) for name in SHAPES}
    times_s = {name: torch.tensor(each, dtype=torch.float64) for name, each in engine.times_s(CHUNK).items()}
    for step in range(STEPS):
        levels = {name: list(pairwise(each))[step] for name, each in LEVELS.items()}
        streams = {
            name: Stream(x, torch.full(x.shape[:2], levels[name][0]), times_s[name]) for name, x in values.items()
        }
        with transformer.cache_context("cond"):
            velocity = their_pass(transformer, streams, prompt(transformer), True)
        values = {name: x + (levels[name][1] - levels[name][0]) * velocity[name] for name, x in values.items()}
    return values


def test_both_streams_are_forecast_as_by_diffusers_taylorseer():
    engine, prompts = engine_with(TaylorSeer(every=2, order=1, warm_up=3).plan(SETTING))
    found = engine.rehearse(CHUNK, prompts)
    expected = of_diffusers()
    assert engine.sampling.cache.work.share == 6 / 8
    assert relative(found.video, expected["video"][0]) <= 1e-5
    assert relative(found.audio, expected["audio"][0]) <= 1e-5


@pytest.mark.parametrize("kv_plan", [KVPlan(1), KVPlan(0, keeps_passes=True)], ids=["causal", "segments"])
@pytest.mark.parametrize(("frozen", "other"), [("video", "audio"), ("audio", "video")])
@torch.inference_mode()
def test_a_frozen_stream_is_seen_with_the_keys_that_it_had(frozen, other, kv_plan):
    engine, prompts = engine_with(Table({"guided": [{}, {frozen: Freeze()}]}), kv_plan)
    sent, scope = engine._sent(prompts), Scope(CHUNK, engine.times_s(CHUNK))
    values = {name: engine._noise(CHUNK, name, 0) for name in SHAPES}
    streams = {name: engine._inputs(scope, name, [0.5], x.dtype).stream(x, 0) for name, x in values.items()}
    whole, part = (engine._guided(streams, CHUNK, sent, step) for step in (0, 1))
    assert torch.equal(whole[other], part[other])
    assert not part[frozen].any()
