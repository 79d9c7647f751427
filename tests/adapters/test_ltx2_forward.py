"""LTX-2 through our attention is LTX-2: diffusers' own forward of both streams, on one rank and on several.

diffusers rounds seconds to float32, which turns its fastest channels by a thousandth of a radian; here it is given
the same positions in float64, so that what is compared is all the rest.
"""

from fractions import Fraction
from functools import partial

import pytest
import torch
from einops import rearrange

from pipeline.adapters.ltx2 import LTX2Denoiser, text_widths
from pipeline.adapters.ltx2_fake import AUDIO_CHANNELS, AUDIO_MEL, FORMS, LATENT_CHANNELS, one_chunk, tiny_transformer
from pipeline.attention.context import ChunkCausalContext, ChunkLengths
from pipeline.attention.exchange import ONE_RANK
from pipeline.attention.fake import run_threads
from pipeline.attention.kv_plan import KVPlan
from pipeline.attention.kv_store import KVStore
from pipeline.attention.shares import Degrees
from pipeline.clock import plan_chunks, plan_scenes
from pipeline.models.protocols import Stream
from pipeline.stages.sharded_denoiser import ShardedDenoiser

SIZE, LATENTS, TEXT_TOKENS = (2, 3), 3, 5
CHUNK, CLOCK = one_chunk(LATENTS)
AUDIO = len(CHUNK.audio_latents)
GANGS = [Degrees(), Degrees(ulysses=2), Degrees(ulysses=3), Degrees(ring=2), Degrees(ring=3), Degrees(2, 2)]
UNIFORM = {"video": [0.7] * LATENTS, "audio": [0.4] * AUDIO}
PARTS = (("latents", 1), ("sigma", 1), ("times_s", 0))
MIXED = {"video": [0.0, 0.7, 0.7], "audio": [0.0, 0.0] + [0.4] * (AUDIO - 2)}


def streams(sigmas):
    torch.manual_seed(3)
    latents = {
        "video": torch.randn(1, LATENTS, LATENT_CHANNELS, *SIZE),
        "audio": torch.randn(1, AUDIO, AUDIO_CHANNELS * AUDIO_MEL),
    }
    times_s = {"video": CLOCK.video_times(CHUNK), "audio": CLOCK.audio_times(CHUNK)}
    return {
        name: Stream(x, torch.tensor([sigmas[name]]), torch.tensor(times_s[name], dtype=torch.float64))
        for name, x in latents.items()
    }


def of_chunk(chunk, sigma):
    torch.manual_seed(chunk.index)
    video = torch.randn(1, len(chunk.latents), LATENT_CHANNELS, *SIZE)
    audio = torch.randn(1, len(chunk.audio_latents), AUDIO_CHANNELS * AUDIO_MEL)
    times_s = (CLOCK.video_times(chunk), CLOCK.audio_times(chunk))
    return {
        name: Stream(x, torch.full(x.shape[:2], sigma), torch.tensor(times, dtype=torch.float64))
        for name, x, times in zip(("video", "audio"), (video, audio), times_s, strict=True)
    }


def prompt(transformer):
    torch.manual_seed(4)
    return torch.randn(1, TEXT_TOKENS, sum(text_widths(transformer.config)))


def of_diffusers(transformer, given, text, cross_timestep):
    """diffusers' forward, a noise level per token where they differ."""
    video, audio = given["video"], given["audio"]
    own, heard = torch.split(text, text_widths(transformer.config), dim=-1)
    coords = transformer.rope.prepare_video_coords(1, LATENTS, *SIZE, video.latents.device, fps=24.0).double()
    coords[:, 0] = (coords[:, 0] * 24).round() / 24
    sound = transformer.audio_rope.prepare_audio_coords(1, AUDIO, video.latents.device).double()
    picture, sounding = transformer(
        rearrange(video.latents, "b f c h w -> b (f h w) c"),
        audio.latents,
        own,
        heard,
        timestep=1000 * video.sigma.repeat_interleave(SIZE[0] * SIZE[1], dim=1),
        audio_timestep=1000 * audio.sigma,
        sigma=1000 * video.sigma.amax(dim=1),
        audio_sigma=1000 * audio.sigma.amax(dim=1),
        video_coords=coords,
        audio_coords=(sound * 100).round() / 100,
        use_cross_timestep=cross_timestep,
        return_dict=False,
    )
    return {
        "video": rearrange(picture, "b (f h w) c -> b f c h w", f=LATENTS, h=SIZE[0]),
        "audio": sounding,
    }


def of_ours(transformer, given, text, cross_timestep, parallel=ONE_RANK):
    denoiser = LTX2Denoiser(transformer, TEXT_TOKENS, cross_timestep)
    store = KVStore(denoiser.sites(*SIZE, LATENTS, AUDIO), KVPlan(1), denoiser.rope, parallel=parallel)
    with store.open(CHUNK, "guided") as context:
        return ShardedDenoiser(denoiser, parallel)(given, text, context)


def differences(form, rope_type, sigmas, cross_timestep, degrees, heads=2):
    made = partial(tiny_transformer, form, rope_type, heads=heads)
    given, text = streams(sigmas), prompt(made())
    with torch.inference_mode():
        expected = of_diffusers(made(), given, text, cross_timestep)
    ranks = run_threads(lambda parallel: of_ours(made(), given, text, cross_timestep, parallel), degrees)
    return [float((rank[name] - expected[name]).abs().max()) for rank in ranks for name in expected]


@pytest.mark.parametrize("cross_timestep", [True, False])
@pytest.mark.parametrize("sigmas", [UNIFORM, MIXED], ids=["one level", "clean latents among noisy ones"])
@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
@pytest.mark.parametrize("form", FORMS)
def test_both_velocities_are_those_of_diffusers(form, rope_type, sigmas, cross_timestep):
    assert max(differences(form, rope_type, sigmas, cross_timestep, Degrees())) <= 1e-5


@pytest.mark.parametrize("degrees", GANGS[1:], ids=str)
@pytest.mark.parametrize("rope_type", ["split", "interleaved"])
@pytest.mark.parametrize("form", FORMS)
def test_ranks_that_share_the_picture_and_all_hear_the_sound_find_the_same(form, rope_type, degrees):
    assert max(differences(form, rope_type, MIXED, True, degrees, heads=3)) <= 1e-5


@pytest.mark.parametrize("sink", [0, 1])
@torch.inference_mode()
def test_a_chunk_that_sees_the_past_through_the_store_is_the_last_of_a_chunk_causal_pass(sink):
    clock, plan = CLOCK, KVPlan(window=1, sink=sink)
    chunks = plan_chunks(clock, plan_scenes(clock, [Fraction(clock.frames(8), 24)], [True]), 2)
    denoiser = LTX2Denoiser(tiny_transformer("2.0"), TEXT_TOKENS, cross_timestep=False)  # a level for every latent
    text, sigmas = prompt(denoiser.ltx), [0.0, 0.0, 0.0, 0.6]
    given = [of_chunk(chunk, sigma) for chunk, sigma in zip(chunks, sigmas, strict=True)]
    most = max(len(chunk.audio_latents) for chunk in chunks)
    store = KVStore(denoiser.sites(*SIZE, 2, most), plan, denoiser.rope)
    for chunk, streams_of, sigma in zip(chunks, given, sigmas, strict=True):
        with store.open(chunk, "guided", write=sigma == 0) as context:
            velocity = denoiser(streams_of, text, context)
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
    whole = denoiser(joined, text, ChunkCausalContext(lengths, plan, denoiser.rope))
    for name, x in velocity.items():
        assert float((whole[name][:, -x.shape[1] :] - x).abs().max()) <= 1e-5
