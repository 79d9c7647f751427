"""Step caches on Wan skip the steps that diffusers' hooks skip, and give the same latents."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.hooks import HookRegistry

from longtake.jobs.bench.parity_cases import relative
from longtake.jobs.bench.tiny_wan import tiny_wan
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.parallel.gang import ONE_RANK
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.guidance import ClassifierFree
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.schedule import noise_levels
from longtake.pipeline.sampling.solver import Euler
from longtake.pipeline.sampling.step_cache import StepCache
from longtake.pipeline.sampling.step_methods import FBCache, MagCache, TaylorSeer
from longtake.pipeline.sampling.step_plan import Setting
from longtake.pipeline.values import PromptEmbedding

HEADS, LAYERS, LATENTS, SIZE, TEXT, STEPS = 2, 4, 3, (2, 4), 5, 12
LEVELS = noise_levels(STEPS, 3.0)
RATIOS = [1.0, *(1 - 0.004 * step for step in range(1, STEPS))]
SETTING = Setting(LEVELS, ("guided",), LAYERS, {"video": LATENTS * SIZE[0] * SIZE[1]})
CLOCK = MediaClock(Fraction(16), 16_000, 4, 800, first_latent_frames=1, audio_centre=Fraction(0))
(CHUNK,) = plan_chunks(CLOCK, plan_scenes(CLOCK, [Fraction(CLOCK.frames(LATENTS), 16)], [True]), LATENTS)
SHAPES = {"video": (4, *SIZE), "audio": (0,)}


def wan():
    torch.manual_seed(0)
    return tiny_wan(HEADS, layers=LAYERS)


def text():
    torch.manual_seed(1)
    return torch.randn(1, TEXT, 16)


def counted(block, steps):
    """Counts the calls of a block's feed-forward part, which runs only where the block does."""
    block.ffn.register_forward_hook(lambda *_: steps.append(0))


@torch.inference_mode()
def of_diffusers(config):
    """The latents by diffusers' transformer with a cache, and how often its last block ran."""
    model, ran = wan(), []
    counted(model.blocks[-1], ran)
    model.enable_cache(config)
    registry = HookRegistry.check_if_exists_or_initialize(model)
    x = KeyedNoise(7).draw("video", CHUNK.latents, SHAPES["video"]).unsqueeze(0).transpose(1, 2)
    done = []
    for sigma, following in pairwise(LEVELS["video"]):
        before = len(ran)
        with model.cache_context("cond"):
            velocity = model(x, torch.tensor([1000 * sigma]), text(), return_dict=False)[0]
        done.append(len(ran) > before)
        x = x + (following - sigma) * velocity
    assert registry is not None
    return x.transpose(1, 2), done


@torch.inference_mode()
def of_longtake(method):
    """The latents by our engine with a step plan, and in which steps the last block ran."""
    denoiser, ran, done = WanDenoiser(wan(), text_tokens=TEXT), [], []
    counted(denoiser.wan.blocks[-1], ran)
    cache = StepCache(method.plan(SETTING), SETTING)
    store = KVStore(denoiser.sites(*SIZE, LATENTS, 0), KVPlan(1), denoiser.rope)
    sampling = Sampling(LEVELS, Euler(), ClassifierFree(1.0), KeyedNoise(7), cache=cache)
    engine = CausalEngine(ShardedDenoiser(denoiser, ONE_RANK, cache), store, CLOCK, sampling, SHAPES)
    guided = engine._guided

    def spied(*arguments):
        before = len(ran)
        velocity = guided(*arguments)
        done.append(len(ran) > before)
        return velocity

    engine._guided = spied
    prompts = {"guided": PromptEmbedding("a film", denoiser.project(text())[0])}
    return engine.rehearse(CHUNK, prompts).video.unsqueeze(0), done


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (FirstBlockCacheConfig(threshold=0.2), FBCache(threshold=0.2)),
        (
            MagCacheConfig(threshold=0.06, max_skip_steps=2, num_inference_steps=STEPS, mag_ratios=RATIOS),
            MagCache(tuple(RATIOS), threshold=0.06, most=2),
        ),
        (
            TaylorSeerCacheConfig(
                cache_interval=2,
                disable_cache_before_step=3,
                disable_cache_after_step=STEPS - 1,
                max_order=1,
                taylor_factors_dtype=torch.float32,
                use_lite_mode=True,
            ),
            TaylorSeer(every=2, order=1, warm_up=3),
        ),
    ],
    ids=["FirstBlockCache", "MagCache", "TaylorSeer"],
)
def test_the_same_steps_are_skipped_with_the_same_result(config, method):
    expected, theirs = of_diffusers(config)
    found, ours = of_longtake(method)
    assert ours == theirs
    assert 1 < sum(ours) < STEPS
    assert relative(found, expected) <= 1e-5
