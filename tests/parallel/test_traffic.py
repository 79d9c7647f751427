"""What a gang is said to send is what its ranks send."""

import pytest
import torch

from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.testing.thread_ranks import run_threads
from tests.tiny import tiny_model

STORYBOARD = "{model: tiny, sampling: {steps: 3}, scenes: [{prompt: a red circle, duration: 16f}]}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("degrees", [Degrees(cfg=2), Degrees(ulysses=2, cfg=2), Degrees(ring=2)], ids=str)
def test_velocities_that_travel_are_those_that_were_foreseen(degrees, dtype):
    model = tiny_model(dtype)
    plan = plan_film(parse_storyboard(STORYBOARD), model)
    chunk, embed = plan.chunks[0], EmbedStage(model.text, plan)

    def act(parallel):
        DenoiseStage(model, plan, lambda _: None, parallel)(chunk, embed(chunk))
        return parallel.cfg.sent_bytes

    foreseen = plan.traffic(chunk, degrees, dtype.itemsize).step_bytes
    assert (foreseen > 0) == (degrees.cfg > 1)
    assert sum(run_threads(act, degrees)) == 3 * foreseen


def test_half_the_item_size_is_half_the_traffic():
    plan = plan_film(parse_storyboard(STORYBOARD), tiny_model())
    half, whole = (plan.traffic(plan.chunks[0], Degrees(ulysses=2, cfg=2), size) for size in (4, 8))
    assert whole.layer_bytes == 2 * half.layer_bytes > 0
    assert whole.step_bytes == 2 * half.step_bytes > 0


def test_one_rank_sends_nothing():
    plan = plan_film(parse_storyboard(STORYBOARD), tiny_model())
    traffic = plan.traffic(plan.chunks[0], Degrees(), 4)
    assert (traffic.layer_bytes, traffic.step_bytes) == (0, 0)
