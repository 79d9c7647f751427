"""A whole clip is that of diffusers' LTX2Pipeline: the same prompt, noise, steps and guidance.

The pipeline rounds seconds to float32; frequencies are kept low here (a theta of 100), so that this cannot be seen.
"""

import pytest
import torch
from einops import rearrange

from pipeline.adapters.ltx2 import LTX2Denoiser
from pipeline.adapters.ltx2_fake import (
    AUDIO_CHANNELS,
    AUDIO_MEL,
    CAPTION_WIDTH,
    LATENT_CHANNELS,
    TEXT_LAYERS,
    one_chunk,
    tiny_pipeline,
    tiny_transformer,
)
from pipeline.attention.kv_plan import KVPlan
from pipeline.attention.kv_store import KVStore
from pipeline.sampling.guidance import PerStream, StreamScales
from pipeline.sampling.noise import KeyedNoise
from pipeline.sampling.rollout import CausalRollout, Sampling
from pipeline.sampling.solver import Euler
from pipeline.values import PromptEmbedding

SIZE, LATENTS, TEXT_TOKENS, THETA = (2, 3), 3, 8, 100.0
SHAPES = {"video": (LATENT_CHANNELS, *SIZE), "audio": (AUDIO_CHANNELS * AUDIO_MEL,)}
SIGMAS = (1.0, 0.7, 0.4, 0.2)
CHUNK, CLOCK = one_chunk(LATENTS)

NO_STREAM = StreamScales()
GUIDANCE = {
    "none": {"video": NO_STREAM, "audio": NO_STREAM},
    "prompt": {"video": StreamScales(prompt=3.0), "audio": StreamScales(prompt=7.0)},
    "modality": {"video": StreamScales(modality=3.0), "audio": StreamScales(modality=2.0)},
    "stg": {"video": StreamScales(stg=1.0), "audio": StreamScales(stg=0.5)},
    "all, rescaled": {"video": StreamScales(3.0, 3.0, 1.0, 0.7), "audio": StreamScales(7.0, 2.0, 0.5, 0.6)},
}


def embeddings():
    torch.manual_seed(6)
    read = torch.randn(2, TEXT_TOKENS, CAPTION_WIDTH * (TEXT_LAYERS + 1))
    seen = torch.ones(2, TEXT_TOKENS, dtype=torch.int64)
    seen[0, :3] = seen[1, :6] = 0  # the prompt, and the shorter empty one, are padded on the left
    return read, seen


def noise():
    keyed = KeyedNoise(7)
    return {
        name: keyed.draw(name, latents, SHAPES[name], 0).unsqueeze(0)
        for name, latents in (("video", CHUNK.latents), ("audio", CHUNK.audio_latents))
    }


def of_diffusers(scales):
    read, seen = embeddings()
    pipeline, start = tiny_pipeline(theta=THETA), noise()
    for vae in (pipeline.vae, pipeline.audio_vae):  # given and returned latents are as the transformer has them
        vae.latents_mean.zero_()
        vae.latents_std.fill_(1)
    video, audio = scales["video"], scales["audio"]
    picture, sound = pipeline(
        prompt_embeds=read[:1],
        prompt_attention_mask=seen[:1],
        negative_prompt_embeds=read[1:],
        negative_prompt_attention_mask=seen[1:],
        latents=rearrange(start["video"], "b f c h w -> b c f h w"),
        audio_latents=rearrange(start["audio"], "b l (c m) -> b c l m", c=AUDIO_CHANNELS),
        height=32,  # the size is that of the latents
        width=32,
        num_frames=CLOCK.frames(LATENTS),
        sigmas=list(SIGMAS),
        num_inference_steps=len(SIGMAS),
        guidance_scale=video.prompt,
        modality_scale=video.modality,
        stg_scale=video.stg,
        guidance_rescale=video.rescale,
        audio_guidance_scale=audio.prompt,
        audio_modality_scale=audio.modality,
        audio_stg_scale=audio.stg,
        audio_guidance_rescale=audio.rescale,
        spatio_temporal_guidance_blocks=[1],
        output_type="latent",
        return_dict=False,
    )
    return rearrange(picture, "1 c f h w -> f c h w"), rearrange(sound, "1 c l m -> l (c m)")


def of_ours(scales):
    guidance = PerStream(scales, stg_layers=[1])
    read, seen = embeddings()
    with torch.inference_mode():
        video, audio, _ = tiny_pipeline(theta=THETA).connectors(read, seen)
    prompts = {
        branch: PromptEmbedding(branch, torch.cat((video, audio), dim=-1)[int(branch == "unguided")])
        for branch in guidance.branches
    }
    denoiser = LTX2Denoiser(tiny_transformer("2.3", theta=THETA), TEXT_TOKENS)
    sites = denoiser.sites(*SIZE, LATENTS, len(CHUNK.audio_latents))
    store = KVStore(sites, KVPlan(1), denoiser.rope, branches=guidance.branches)
    sigmas = dict.fromkeys(SHAPES, (*SIGMAS, 0.0))
    rollout = CausalRollout(denoiser, store, CLOCK, Sampling(sigmas, Euler(), guidance, KeyedNoise(7)), SHAPES)
    latents = rollout.denoise(CHUNK, prompts)
    return latents.video, latents.audio


@pytest.mark.parametrize("scales", GUIDANCE.values(), ids=GUIDANCE)
def test_picture_and_sound_are_those_of_the_pipeline(scales):
    for ours, expected in zip(of_ours(scales), of_diffusers(scales), strict=True):
        assert float((ours - expected).abs().max()) <= 1e-5
