"""A whole clip equals that of diffusers' pipeline, latents and frames, with the same noise, levels and guidance."""

import pytest
import torch

from longtake.jobs.bench.wan_parity import CLIPS, GUIDANCE, decoded_difference, our_clip, their_clip
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.sampling.guidance import ByNoiseLevel
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.testing.thread_ranks import run_threads

GANGS = {"ulysses 2": Degrees(ulysses=2), "ring 3": Degrees(ring=3), "cfg 2": Degrees(cfg=2)}


@pytest.fixture(scope="module", params=CLIPS)
def clip(request, tmp_path_factory):
    return their_clip(request.param, tmp_path_factory.mktemp("clip") / request.param)


def test_latents_and_frames_equal_those_of_diffusers(clip):
    model, latents = our_clip(clip)
    levels = clip.levels
    assert levels[0] == 1
    assert clip.kind != "a14b" or levels[0] > model.defaults.boundary > levels[2], "both experts are used"
    assert (latents.video - clip.latents).abs().max() <= 1e-5
    assert clip.latents.std() > 0.5
    assert decoded_difference(clip, model, latents) <= 1e-5
    with torch.inference_mode():
        sound, _ = model.sound_codec.decode(latents.audio.unsqueeze(0), None, final=True)
    assert sound.count_nonzero() == 0


@pytest.mark.parametrize("gang", GANGS)
def test_a_gang_makes_the_same_clip_and_the_same_bits_on_all_ranks(clip, gang):
    ranks = run_threads(lambda parallel: our_clip(clip, parallel)[1], GANGS[gang])
    assert all((one.video - clip.latents).abs().max() <= 1e-5 for one in ranks)
    assert all(torch.equal(one.video, ranks[0].video) for one in ranks)


def test_each_expert_has_its_own_guidance(tmp_path):
    clip = their_clip("a14b", tmp_path / "a14b", low_noise_guidance=3.0)
    model, latents = our_clip(clip, guidance=ByNoiseLevel(GUIDANCE, 3.0, 0.875))
    assert (latents.video - clip.latents).abs().max() <= 1e-5
    one_scale = our_clip(clip)[1]
    assert (one_scale.video - clip.latents).abs().max() > 1e-3
    storyboard = parse_storyboard("{model: a14b, scenes: [{prompt: a red circle, duration: 1s}]}")
    plan = plan_film(storyboard, model)
    assert plan.guidance == ByNoiseLevel(4.0, 3.0, 0.875)
    assert plan.storyboard.sampling.guidance_2 == 3.0
