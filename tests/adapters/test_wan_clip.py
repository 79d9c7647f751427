"""A whole clip on our road is the clip of diffusers' pipeline: the same noise, levels, guidance, latents and frames."""

from itertools import pairwise

import pytest
import torch

from jobs.bench.wan_parity import (
    CLIPS,
    GUIDANCE,
    LATENTS,
    NOISE,
    PROMPT,
    STEPS,
    decoded_difference,
    our_clip,
    their_clip,
)
from pipeline.adapters.wan_fake import one_chunk, save, tiny_pipeline
from pipeline.adapters.wan_model import open_folder
from pipeline.attention.fake import run_threads
from pipeline.attention.kv_store import KVStore
from pipeline.attention.shares import Degrees
from pipeline.models.protocols import Stream
from pipeline.weights.options import LoadOptions

GANGS = {"ulysses 2": Degrees(ulysses=2), "ring 3": Degrees(ring=3), "cfg 2": Degrees(cfg=2)}


@pytest.fixture(scope="module", params=CLIPS)
def clip(request, tmp_path_factory):
    return their_clip(request.param, tmp_path_factory.mktemp("clip") / request.param)


def test_latents_and_frames_are_those_of_diffusers(clip):
    model, latents = our_clip(clip)
    levels = clip.levels
    assert levels[0] == 1
    assert clip.kind != "a14b" or levels[0] > model.low_noise_guidance[0] > levels[2], "both experts have their turn"
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


def test_each_expert_has_a_guidance_of_its_own(tmp_path):
    width, height = CLIPS["a14b"]
    pipeline = tiny_pipeline("a14b")
    model = open_folder(save(pipeline, tmp_path / "a14b"), LoadOptions())
    boundary, low_scale = model.low_noise_guidance
    shape = model.latent_shapes(width, height)["video"]
    x = NOISE.draw("video", range(LATENTS), shape).unsqueeze(0)
    asked = {"prompt": PROMPT, "width": width, "height": height, "num_frames": 1 + 4 * (LATENTS - 1)}
    asked |= {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "guidance_scale_2": low_scale}
    expected = pipeline(**asked, latents=x.transpose(1, 2), output_type="latent", return_dict=False)[0]

    chunk, clock = one_chunk(LATENTS)
    store = KVStore(model.denoiser.sites(*shape[1:], LATENTS, 0), model.plan, model.denoiser.rope)
    times = torch.tensor(clock.video_times(chunk), dtype=torch.float64)
    with torch.inference_mode():
        texts = [model.text.embed(text).unsqueeze(0) for text in (PROMPT, "")]
        for sigma, lower in pairwise(pipeline.scheduler.sigmas.tolist()):
            streams = {"video": Stream(x, torch.full((1, LATENTS), sigma), times)}
            with store.open(chunk, "guided") as context:
                guided, unguided = (model.denoiser(streams, text, context)["video"] for text in texts)
            scale = low_scale if sigma < boundary else GUIDANCE
            x = x + (lower - sigma) * (unguided + scale * (guided - unguided))
    assert (x - expected.transpose(1, 2)).abs().max() <= 1e-5
