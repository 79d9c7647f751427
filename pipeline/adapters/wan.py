"""Wan 2.1 and 2.2 (Wan team, arXiv 2503.20314) as a chunk-causal denoiser: diffusers' blocks, our attention.

The blocks are diffusers' own, with an attention processor that hands queries, keys and values to the context of the
pass. A latent frame has its own noise level, as in Wan 2.2 and in the causal checkpoints that were distilled from 2.1
(Self-Forcing, LongLive). Positions are computed, not looked up, so no film is too long.

Shapes: b batch, f latent frames, c channels, h w latent height and width, p q patch, s tokens of a latent frame,
l tokens of a pass, d their width, m modulations, t text tokens, n heads, k head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from einops import rearrange
from torch import Tensor, nn

from pipeline.attention.context import QKV, AttentionContext, Site
from pipeline.attention.kv_plan import SiteLayout, StreamLayout
from pipeline.attention.rope import Rope
from pipeline.models.protocols import Stream, Tokens

THETA = 10_000.0
TIMESTEPS = 1000


class WanDenoiser(nn.Module):
    """A `WanTransformer3DModel` that answers to `protocols.Denoiser`, for the stream `video` alone.

    Args:
        transformer: without image conditioning; its attention processors are replaced.
        latents_per_s: latent frames in a second of film, one apart in the positions that Wan was trained on.
        text_tokens: of a prompt.
    """

    def __init__(self, transformer: WanTransformer3DModel, latents_per_s: float = 4.0, text_tokens: int = 512) -> None:
        super().__init__()
        self.wan, self._text_tokens = transformer, text_tokens
        config = transformer.config
        self._patch = config.patch_size[1:]
        head_dim = config.attention_head_dim
        space = 2 * (head_dim // 6)
        time = [frequency * latents_per_s for frequency in _frequencies(head_dim - 2 * space)]
        self.rope = Rope.of_axes([time, _frequencies(space), _frequencies(space)])
        self.blocks = [WanBlock(block) for block in transformer.blocks]

    def project(self, text: Tensor) -> Tensor:
        """Prompt tokens [b t c] of Wan's text encoder as the blocks read them, [b t d]: once per prompt."""
        projected: Tensor = self.wan.condition_embedder.text_embedder(text)
        return projected

    def forward(self, streams: Mapping[str, Stream], text: Tensor, context: AttentionContext) -> dict[str, Tensor]:
        """The velocity of the video latents, for projected prompt tokens `text` [b t d]."""
        tokens = self.embed(streams, text)
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, text, context, Site(layer, "video_self"))
        return self.head(tokens, streams)

    def embed(self, streams: Mapping[str, Stream], _: Tensor) -> dict[str, Tokens]:
        """Latents to tokens; the prompt is read by the blocks."""
        video, embedder = streams["video"], self.wan.condition_embedder
        patches = self.wan.patch_embedding(rearrange(video.latents, "b f c h w -> b c f h w"))
        _, _, f, h, w = patches.shape
        timesteps = rearrange(TIMESTEPS * video.sigma, "b f -> (b f)")
        sinusoids = rearrange(embedder.timesteps_proj(timesteps).to(patches.dtype), "(b f) d -> b f 1 d", f=f)
        condition = embedder.time_embedder(sinusoids)
        modulation = embedder.time_proj(embedder.act_fn(condition))
        lines = (torch.arange(size, dtype=torch.float64) for size in (h, w))
        positions = torch.cartesian_prod(video.times_s.to(torch.float64), *lines)
        return {
            "video": Tokens(
                x=rearrange(patches, "b d f h w -> b f (h w) d"),
                condition=condition,
                modulation=rearrange(modulation, "b f 1 (m d) -> b f 1 m d", m=6),
                positions=rearrange(positions, "(f s) a -> f s a", f=f),
            )
        }

    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """Tokens to the velocity."""
        video, (p, q) = tokens["video"], self._patch
        shift, scale = (self.wan.scale_shift_table + video.condition.unsqueeze(-2)).unbind(dim=-2)
        rows = self.wan.proj_out((self.wan.norm_out(video.x.float()) * (1 + scale) + shift).type_as(video.x))
        h = streams["video"].latents.shape[-2] // p
        return {"video": rearrange(rows, "b f (h w) (p q c) -> b f c (h p) (w q)", h=h, p=p, q=q)}

    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        """Per layer, one site over the film and one over the prompt; there is no sound."""
        del chunk_audio
        config, (p, q) = self.wan.config, self._patch
        frame_tokens = (latent_height // p) * (latent_width // q)
        video = StreamLayout("video", chunk_latents * frame_tokens, frame_tokens=frame_tokens)
        prompt = (StreamLayout("video", 0, kept=False), StreamLayout("text", self._text_tokens, kept=False))
        size = (config.num_layers, config.num_attention_heads, config.attention_head_dim)
        return [SiteLayout("video_self", *size, (video,)), SiteLayout("video_text", *size, prompt)]


@dataclass(frozen=True)
class _Here:
    """Where a block attends, and the prompt where it is read; handed through diffusers' block to the processors."""

    context: AttentionContext
    site: Site
    positions: Mapping[str, Tensor]
    text: Tensor | None = None


class WanBlock:
    """One of diffusers' blocks over tokens whose attention is the context's business."""

    def __init__(self, block: Any) -> None:
        self._block = block
        block.attn1.set_processor(ContextProcessor())
        block.attn2.set_processor(ContextProcessor())

    def __call__(
        self, tokens: Mapping[str, Tokens], text: Tensor, context: AttentionContext, site: Site
    ) -> dict[str, Tokens]:
        """The stream after this layer, attending over the film, then over the prompt."""
        video = tokens["video"]
        _, f, s, _ = video.x.shape
        modulation = video.modulation.expand(-1, f, s, -1, -1)
        film = {"video": rearrange(video.positions, "f s a -> (f s) a")}
        x: Tensor = self._block(
            rearrange(video.x, "b f s d -> b (f s) d"),
            _Here(context, Site(site.layer, "video_text"), {}, text),
            rearrange(modulation, "b f s m d -> b (f s) m d"),
            _Here(context, Site(site.layer, "video_self"), film),
        )
        return {"video": replace(video, x=rearrange(x, "b (f s) d -> b f s d", f=f))}


class ContextProcessor:
    """Attention of a `WanAttention`, in place of diffusers' own processor."""

    def __call__(
        self, attention: Any, x: Tensor, prompt: _Here | None, _mask: None, film: _Here | None, **_: Any
    ) -> Tensor:
        """Attended tokens [b l d]; diffusers passes what to attend over as prompt or as rotary embedding."""
        here = film or prompt
        assert here is not None
        source = x if here.text is None else here.text
        q, k = attention.norm_q(attention.to_q(x)), attention.norm_k(attention.to_k(source))
        # Wan rotates channel 2i together with 2i + 1, and Rope channel i with i + k/2.
        q, k = (rearrange(y, "b l (n half two) -> b n l (two half)", n=attention.heads, two=2) for y in (q, k))
        v = rearrange(attention.to_v(source), "b l (n k) -> b n l k", n=attention.heads)
        if here.text is None:
            streams = {"video": QKV(q, k, v)}
        else:
            streams = {"video": QKV(q, q[:, :, :0], q[:, :, :0]), "text": QKV(None, k, v)}
        attended = here.context.attend(here.site, streams, here.positions)["video"]
        out: Tensor = attention.to_out[0](rearrange(attended, "b n l k -> b l (n k)"))
        return out


def _frequencies(width: int) -> list[float]:
    """Angular frequencies per latent frame or patch of an axis with `width` channels."""
    return [THETA ** (-channel / width) for channel in range(0, width, 2)]
