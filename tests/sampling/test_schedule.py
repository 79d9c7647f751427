"""Schedules that real weights were published with, against the schedulers that they were published in."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from longtake.pipeline.adapters.unipc import UniPC
from longtake.pipeline.models.limits import DynamicShift
from longtake.pipeline.sampling.schedule import noise_levels, sigmas, stretched
from longtake.pipeline.sampling.solver import Euler
from longtake.pipeline.sampling_spec import SamplingSpec

LTX2 = DynamicShift()


def no_noise():
    raise AssertionError("these solvers draw none")


def ltx2_levels(steps, tokens):
    """The levels of diffusers' LTX2Pipeline, with the scheduler configuration that LTX-2 is published with."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=1024, max_image_seq_len=4096, base_shift=0.95, max_shift=2.05,
        shift_terminal=0.1,
    )  # fmt: skip
    slope = (2.05 - 0.95) / (4096 - 1024)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=tokens * slope + 0.95 - slope * 1024)
    return scheduler.sigmas


@pytest.mark.parametrize("steps", [1, 4, 30])
@pytest.mark.parametrize("tokens", [240, 1024, 6144])
def test_the_dynamic_schedule_is_that_of_ltx2(steps, tokens):
    levels = sigmas(SamplingSpec(steps=steps, schedule="dynamic"), 0.0, LTX2, tokens)
    for stream in ("video", "audio"):
        if steps == 1:  # there is nothing to stretch: diffusers divides by zero
            assert levels[stream] == (1.0, 0.0)
        else:
            torch.testing.assert_close(torch.tensor(levels[stream]), ltx2_levels(steps, tokens), rtol=0, atol=1e-6)
            assert levels[stream][-2] == pytest.approx(0.1)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_the_shifted_schedule_is_that_of_flow_matching_and_euler_steps_as_its_scheduler(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 8, 8))
    levels = sigmas(SamplingSpec(steps=8, shift=shift), 0.0)["video"]
    torch.testing.assert_close(torch.tensor(levels), scheduler.sigmas, rtol=0, atol=1e-6)
    x, velocities = torch.randn(1, 3, 4, 2, 2, dtype=torch.float64), torch.randn(8, 1, 3, 4, 2, 2, dtype=torch.float64)
    ours, theirs = x, x.float()
    for timestep, velocity, step in zip(scheduler.timesteps, velocities, pairwise(levels), strict=True):
        ours = Euler().step(ours, velocity, *step, no_noise)
        theirs = scheduler.step(velocity.float(), timestep, theirs, return_dict=False)[0]
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-5)


def test_stretching_keeps_the_first_level_and_a_schedule_of_one_step():
    assert stretched((1.0, 0.5, 0.0), 0.1) == pytest.approx((1.0, 0.1, 0.0))
    assert stretched((1.0, 0.0), 0.1) == (1.0, 0.0)


@pytest.mark.parametrize(("steps", "shift"), [(1, 5.0), (4, 3.0), (9, 5.0)])
def test_unipc_is_its_scheduler_stepped_by_itself_bit_for_bit(steps, shift):
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(steps)
    levels = sigmas(SamplingSpec(steps=steps, shift=shift, solver="unipc"), 0.0)["video"]
    begun = UniPC().begin(levels)
    generator = torch.Generator().manual_seed(3)
    ours = theirs = torch.randn(1, 3, 4, 2, 2, generator=generator)
    for timestep, step in zip(scheduler.timesteps, pairwise(levels), strict=True):
        velocity = torch.randn(1, 3, 4, 2, 2, generator=generator)
        ours = begun.step(ours, velocity, *step, no_noise)
        theirs = scheduler.step(velocity, timestep, theirs, return_dict=False)[0]
        assert torch.equal(ours, theirs)


def test_unipc_rests_where_a_stream_waits_for_the_other():
    levels = noise_levels(8, 3.0, audio_lag=0.75, lowest=1 / 1000)["audio"]
    moving = tuple(level for level, following in pairwise(levels) if level != following)
    waiting, straight = UniPC().begin(levels), UniPC().begin((*moving, 0.0))
    generator = torch.Generator().manual_seed(3)
    x = y = torch.randn(1, 20, 6, generator=generator)
    for step in pairwise(levels):
        velocity = torch.randn(1, 20, 6, generator=generator)
        before, x = x, waiting.step(x, velocity, *step, no_noise)
        if step[0] == step[1]:
            assert torch.equal(x, before)
        else:
            y = straight.step(y, velocity, *step, no_noise)
    assert torch.equal(x, y)
    assert x.isfinite().all()
