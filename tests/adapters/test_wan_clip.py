"""A whole clip on our road is the clip of diffusers' pipeline: the same noise, levels, guidance, latents and frames."""

from itertools import pairwise

import pytest
import torch

from pipeline.adapters.wan_fake import one_chunk, save, tiny_pipeline
from pipeline.adapters.wan_model import open_folder
from pipeline.attention.exchange import ONE_RANK, Parallel
from pipeline.attention.fake import run_threads
from pipeline.attention.kv_store import KVStore
from pipeline.attention.shares import Degrees
from pipeline.models.protocols import Stream
from pipeline.sampling.noise import KeyedNoise
from pipeline.sampling.rollout import CausalRollout, Sampling
from pipeline.sampling.solver import Euler
from pipeline.stages.sharded_denoiser import ShardedDenoiser
from pipeline.values import LatentChunk, PromptEmbedding
from pipeline.weights.options import LoadOptions

PROMPT, STEPS, GUIDANCE, LATENTS, NOISE = "a red circle", 4, 2.5, 5, KeyedNoise(9)
SIZES = {"2.1": (48, 32), "5b": (96, 64), "a14b": (48, 32)}
GANGS = {"ulysses 2": Degrees(ulysses=2), "ring 3": Degrees(ring=3), "cfg 2": Degrees(cfg=2)}


@pytest.fixture(scope="module", params=SIZES)
def clip(request, tmp_path_factory):
    """The kind, its folder, and what diffusers makes of it: noise levels, latents [f c h w] and frames [n 3 H W]."""
    kind, (width, height) = request.param, SIZES[request.param]
    pipeline = tiny_pipeline(kind)
    folder = save(pipeline, tmp_path_factory.mktemp("clip") / kind)
    shape = open_folder(folder, LoadOptions()).latent_shapes(width, height)["video"]
    noise = NOISE.draw("video", range(LATENTS), shape).transpose(0, 1).unsqueeze(0)
    asked = {"prompt": PROMPT, "width": width, "height": height, "num_frames": 1 + 4 * (LATENTS - 1)}
    asked |= {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "latents": noise, "return_dict": False}
    latents = pipeline(**asked, output_type="latent")[0]
    frames = pipeline(**asked, output_type="pt")[0]
    return kind, folder, pipeline.scheduler.sigmas.tolist(), latents[0].transpose(0, 1), 2 * frames[0] - 1


def ours(kind, folder, levels, parallel: Parallel = ONE_RANK) -> tuple[object, LatentChunk]:
    """The same clip as one chunk of a causal rollout, and the model that made it."""
    model = open_folder(folder, LoadOptions())
    chunk, clock = one_chunk(LATENTS, fps=int(model.limits.max_fps))
    shapes = model.latent_shapes(*SIZES[kind])
    sites = model.denoiser.sites(*shapes["video"][1:], LATENTS, len(chunk.audio_latents))
    branches = {"guided": PROMPT, "unguided": ""}
    own = parallel.branches(branches)
    store = KVStore(sites, model.plan, model.denoiser.rope, branches=own, dtype=model.dtype, parallel=parallel)
    sampling = Sampling(dict.fromkeys(shapes, levels), Euler(), GUIDANCE, NOISE)
    rollout = CausalRollout(ShardedDenoiser(model.denoiser, parallel), store, clock, sampling, shapes, parallel)
    with torch.inference_mode():
        prompts = {branch: PromptEmbedding(text, model.text.embed(text)) for branch, text in branches.items()}
        return model, rollout.denoise(chunk, prompts)


def test_latents_and_frames_are_those_of_diffusers(clip):
    kind, folder, levels, expected, frames = clip
    model, latents = ours(kind, folder, levels)
    assert levels[0] == 1
    assert kind != "a14b" or levels[0] > model.low_noise_guidance[0] > levels[2], "both experts must have their turn"
    assert (latents.video - expected).abs().max() <= 1e-5
    assert expected.std() > 0.5
    with torch.inference_mode():
        decoded, _ = model.video_codec.decode(latents.video.unsqueeze(0), None)
        sound, _ = model.sound_codec.decode(latents.audio.unsqueeze(0), None, final=True)
    assert decoded[0].shape == frames.shape
    assert (decoded[0] - frames).abs().max() <= 1e-5
    assert sound.count_nonzero() == 0


@pytest.mark.parametrize("gang", GANGS)
def test_a_gang_makes_the_same_clip_and_the_same_bits_on_all_ranks(clip, gang):
    kind, folder, levels, expected, _ = clip
    ranks = run_threads(lambda parallel: ours(kind, folder, levels, parallel)[1], GANGS[gang])
    assert all((one.video - expected).abs().max() <= 1e-5 for one in ranks)
    assert all(torch.equal(one.video, ranks[0].video) for one in ranks)


def test_each_expert_has_a_guidance_of_its_own(tmp_path):
    width, height = SIZES["a14b"]
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
