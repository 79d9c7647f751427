"""Tiny random LTX-2 networks of both forms, for tests and benches: the same architecture, no weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from threading import Lock
from typing import Any, Literal

import torch
from diffusers import LTX2VideoTransformer3DModel
from torch import nn

from pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes

Form = Literal["2.0", "2.3"]
FORMS: tuple[Form, ...] = ("2.0", "2.3")

LATENT_CHANNELS = 4
AUDIO_CHANNELS, AUDIO_MEL = 2, 2
"""Of an audio latent: channels, and mel bands of each."""
CAPTION_WIDTH = 8

_SEEDING = Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random weights that depend on `seed` alone; PyTorch's seed belongs to the process."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def tiny_transformer(
    form: Form = "2.0", rope_type: str = "split", *, heads: int = 2, head_dim: int = 8, theta: float = 10_000.0
) -> LTX2VideoTransformer3DModel:
    """A small denoiser: of LTX-2 2.0, or with what 2.3 adds."""
    added: dict[str, Any] = {}
    if form == "2.3":
        added = dict.fromkeys(("gated_attn", "audio_gated_attn", "cross_attn_mod", "audio_cross_attn_mod"), True)
        added |= {"perturbed_attn": True, "use_prompt_embeddings": False}
    with seeded(1):
        transformer = LTX2VideoTransformer3DModel(
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            cross_attention_dim=heads * head_dim,
            audio_in_channels=AUDIO_CHANNELS * AUDIO_MEL,
            audio_out_channels=AUDIO_CHANNELS * AUDIO_MEL,
            audio_num_attention_heads=heads,
            audio_attention_head_dim=head_dim // 2,
            audio_cross_attention_dim=heads * head_dim // 2,
            num_layers=2,
            caption_channels=CAPTION_WIDTH,
            rope_type=rope_type,
            rope_theta=theta,
            **added,
        ).eval()
        for parameter in transformer.parameters():  # diffusers' own start leaves biases at 0 and norms at 1
            nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return transformer


def one_chunk(num_latents: int, fps: int = 24) -> tuple[ChunkSpan, MediaClock]:
    """A film that is one chunk of a section, and its clock: 8k + 1 frames, 25 audio latents a second."""
    clock = MediaClock(Fraction(fps), 24_000, 8, 960, first_latent_frames=1, audio_centre=Fraction(-1, 4))
    scenes = plan_scenes(clock, [Fraction(clock.frames(num_latents), fps)], [True])
    (chunk,) = plan_chunks(clock, scenes, num_latents)
    return chunk, clock
