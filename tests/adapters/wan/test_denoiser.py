"""Wan with longtake's attention equals diffusers' forward pass, whole and under a chunk-causal mask."""

from collections.abc import Sequence

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from longtake.jobs.bench.parity_cases import CHUNK_LATENTS, SIGMA, Case, film, relative
from longtake.jobs.bench.tiny_wan import tiny_wan
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.parallel.degrees import Degrees

HEADS, SIZE, TEXT_TOKENS, WINDOW = 3, (2, 3), 5, 2
FRAME_TOKENS = SIZE[0] * SIZE[1]


class MaskedProcessor(WanAttnProcessor):
    """diffusers' processor with a mask [l l] in self-attention; its blocks pass none."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self._mask = mask

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        return super().__call__(attn, hidden_states, encoder_hidden_states, self._mask, rotary_emb)


def chunk_causal(num_chunks: int) -> torch.Tensor:
    """The mask under which every chunk sees itself and the window before it."""
    chunk = torch.arange(num_chunks).repeat_interleave(CHUNK_LATENTS * FRAME_TOKENS)
    distance = chunk.unsqueeze(1) - chunk
    return (distance >= 0) & (distance <= WINDOW)


def of_diffusers(num_chunks: int, latents: Sequence[torch.Tensor], sigmas: Sequence[float], text: torch.Tensor):
    """The last chunk's velocity by diffusers' forward pass over all chunks, with a noise level per token."""
    torch.manual_seed(0)
    wan = tiny_wan(HEADS)
    for block in wan.blocks:
        block.attn1.set_processor(MaskedProcessor(chunk_causal(num_chunks)))
    timestep = 1000 * torch.tensor(sigmas).repeat_interleave(CHUNK_LATENTS * FRAME_TOKENS).unsqueeze(0)
    x = torch.cat(list(latents), dim=1).transpose(1, 2)
    out = wan(x, timestep, text, return_dict=False)[0]
    return out.transpose(1, 2)[:, -CHUNK_LATENTS:]


@pytest.mark.parametrize("num_chunks", [1, 2, 5])
@torch.inference_mode()
def test_cached_wan_equals_diffusers_under_a_chunk_causal_mask(num_chunks):
    of = film(Case(Degrees(), HEADS, SIZE, torch.float32, client="wan"))
    torch.manual_seed(0)
    denoiser = WanDenoiser(tiny_wan(HEADS), text_tokens=TEXT_TOKENS)
    text = torch.randn(1, TEXT_TOKENS, 16)
    store = KVStore(denoiser.sites(*SIZE, CHUNK_LATENTS, 0), KVPlan(WINDOW), denoiser.rope)
    chunks, latents = of.chunks[:num_chunks], []
    for chunk in chunks:
        sigma = SIGMA if chunk is chunks[-1] else 0.0
        streams = of.streams(chunk, sigma)
        latents.append(streams["video"].latents)
        with store.open(chunk, "guided", write=sigma == 0) as context:
            velocity = predict(denoiser, streams, denoiser.project(text), context)["video"]
            if sigma == 0:
                context.commit()
    expected = of_diffusers(num_chunks, latents, [0.0] * (num_chunks - 1) + [SIGMA], text)
    assert relative(velocity, expected) <= 1e-5
