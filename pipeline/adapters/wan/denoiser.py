"""Wan 2.1 and 2.2 (Wan team, arXiv 2503.20314) as a denoiser: diffusers' weights, our attention.

Its layers are in `block.py`. A latent frame has its own noise level, as in Wan 2.2 5B and in the causal checkpoints
that were distilled from 2.1 (Self-Forcing, LongLive). Positions are computed, not looked up, so no film is too long.

Weights that continue an image read two more streams: `condition`, further channels of every latent, and `image`, CLIP's
tokens of it, if they were trained with that (2.1). `image.py` makes both.

Shapes: b batch, f latent frames, c channels, h w latent height and width, p q patch, s tokens of a latent frame,
l tokens of a pass, d their width, m modulations, t text tokens, i image tokens, n heads, k head width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from einops import rearrange
from torch import Tensor, nn

from longtake.pipeline.adapters.wan.block import WanBlock, WanTokens
from longtake.pipeline.attention.kv_plan import SiteLayout, StreamLayout
from longtake.pipeline.attention.memory import PROMPTS, Latest
from longtake.pipeline.attention.rope import Rope
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.protocols import Block, Stream, Tokens

THETA = 10_000.0
TIMESTEPS = 1000
LATENT_FRAMES = 4
"""Frames of a latent; a section's first latent holds one."""
IMAGE_TOKENS = 257
"""What CLIP makes of an image: its patches, and one for the whole."""


class WanDenoiser(nn.Module):
    """A `WanTransformer3DModel` as a `protocols.BlockDenoiser`; sound has no channels and passes through.

    Args:
        transformer: its blocks become `WanBlock`s.
        latents_per_s: latent frames in a second of film, one apart in the positions that Wan was trained on.
        text_tokens: of a prompt.
    """

    def __init__(self, transformer: WanTransformer3DModel, latents_per_s: float = 4.0, text_tokens: int = 512) -> None:
        super().__init__()
        self.wan, self._latents_per_s, self._text_tokens = transformer, latents_per_s, text_tokens
        self.rope = rope(transformer.config, latents_per_s)
        self.blocks: list[Block] = [WanBlock.of(block) for block in transformer.blocks]
        self._positions: Latest[Tensor] = Latest()
        self._texts: Latest[Tensor] = Latest(PROMPTS)
        self._timed: Latest[tuple[Tensor, Tensor]] = Latest()

    def project(self, text: Tensor) -> Tensor:
        """Prompt tokens [b t c] of Wan's text encoder as the blocks read them, [b t d]: once per prompt."""
        projected: Tensor = self.wan.condition_embedder.text_embedder(text)
        return projected

    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        """Latents, and projected prompt tokens `text` [b t d], to tokens. Raises `SpecError` without the image that the
        weights continue."""
        video, weight = streams["video"], self.wan.patch_embedding.weight
        latents = torch.cat([video.latents, *self._further_channels(streams)], dim=2).to(weight.device, weight.dtype)
        patches = self.wan.patch_embedding(rearrange(latents, "b f c h w -> b c f h w"))
        h, w = patches.shape[-2:]
        condition, modulation = self._timed.of(video.sigma, patches.dtype, lambda: self._time(video.sigma, patches))
        tokens = WanTokens(
            x=rearrange(patches, "b d f h w -> b f (h w) d"),
            condition=condition,
            modulation=modulation,
            positions=self._positions.of(video.times_s, (h, w), lambda: self._placed(video.times_s, h, w)),
            text=self._texts.of(text, (weight.device, weight.dtype), lambda: text.to(weight.device, weight.dtype)),
            image=self._image(streams),
        )
        return {"video": tokens}

    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """Tokens to the velocity."""
        video, latents = tokens["video"], streams["video"].latents
        _, p, q = self.wan.config.patch_size
        shift, scale = (self.wan.scale_shift_table + video.condition.unsqueeze(-2)).unbind(dim=-2)
        rows = self.wan.proj_out((self.wan.norm_out(video.x.float()) * (1 + scale) + shift).type_as(video.x))
        h = latents.shape[-2] // p
        velocity = rearrange(rows, "b f (h w) (p q c) -> b f c (h p) (w q)", h=h, p=p, q=q).to(latents)
        return {"video": velocity} | {name: streams[name].latents for name in streams.keys() & {"audio"}}

    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        """The module's function `sites`, for this network."""
        del chunk_audio
        return sites(self.wan.config, (latent_height, latent_width), chunk_latents, self._text_tokens)

    def _time(self, sigma: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Condition [b f 1 d] and modulation [b f 1 6 d] of noise levels [b f]: once per step, for all branches."""
        embedder, f = self.wan.condition_embedder, sigma.shape[1]
        timesteps = rearrange(TIMESTEPS * sigma, "b f -> (b f)").to(like.device)
        steps = embedder.timesteps_proj(timesteps).to(embedder.time_embedder.linear_1.weight.dtype)
        condition = embedder.time_embedder(rearrange(steps, "(b f) d -> b f 1 d", f=f)).type_as(like)
        modulation = embedder.time_proj(embedder.act_fn(condition))
        return condition, rearrange(modulation, "b f 1 (m d) -> b f 1 m d", m=6)

    def _further_channels(self, streams: Mapping[str, Stream]) -> list[Tensor]:
        """Channels [b f c h w] in addition to those of the video."""
        wanted = self.wan.config.in_channels - streams["video"].latents.shape[2]
        found = [streams["condition"].latents.to(streams["video"].latents)] if "condition" in streams else []
        if wanted != sum(x.shape[2] for x in found):
            raise _no_image(f"{wanted} condition channels for each latent", "condition", found)
        return found

    def _image(self, streams: Mapping[str, Stream]) -> Tensor | None:
        """The tokens [b i d] of the image that is continued."""
        embedder = self.wan.condition_embedder.image_embedder
        if embedder is None:
            return None
        if "image" not in streams:
            raise _no_image("what CLIP sees in an image", "image", [])
        image: Tensor = embedder(streams["image"].latents.to(self.wan.patch_embedding.weight))
        return image

    def _placed(self, times_s: Tensor, rows: int, columns: int) -> Tensor:
        """Seconds, row and column of each token: float64 [f s 3]."""
        lines = (torch.arange(size, dtype=torch.float64, device=times_s.device) for size in (rows, columns))
        positions = torch.cartesian_prod(self._evenly(times_s), *lines)
        return rearrange(positions, "(f s) a -> f s a", f=len(times_s))

    def _evenly(self, times_s: Tensor) -> Tensor:
        """Times [f] as if a section's first latent held as many frames as the others, as Wan counts: the middle of its
        one frame is the only one that lies inside a frame."""
        frame_s = 1 / (LATENT_FRAMES * self._latents_per_s)
        times_s = times_s.to(torch.float64)
        inside = (2 * times_s / frame_s).round() % 2 == 1
        return torch.where(inside, times_s - (LATENT_FRAMES - 1) / 2 * frame_s, times_s)


def _no_image(what: str, stream: str, found: list[Tensor]) -> SpecError:
    has = f"[{', '.join(map(str, found[0].shape))}]" if found else "nothing"
    return SpecError(
        f"these weights of Wan read {what}, and the stream {stream!r} holds {has}; they render from an image: give the"
        " scene one, or use weights that render from text"
    )


def rope(config: Mapping[str, Any], latents_per_s: float) -> Rope:
    """Wan's rotations, its time counted in seconds.

    Args:
        config: of a `WanTransformer3DModel`.
        latents_per_s: see `WanDenoiser`.
    """
    head_dim = config["attention_head_dim"]
    space = 2 * (head_dim // 6)
    time = [frequency * latents_per_s for frequency in _frequencies(head_dim - 2 * space)]
    return Rope.of_axes([time, _frequencies(space), _frequencies(space)], interleaved=True)


def _frequencies(width: int) -> list[float]:
    """Angular frequencies per latent frame or patch of an axis with `width` channels."""
    return [THETA ** (-channel / width) for channel in range(0, width, 2)]


def sites(config: Mapping[str, Any], size: tuple[int, int], chunk_latents: int, text_tokens: int) -> list[SiteLayout]:
    """Per layer, one site over the film, one over the prompt, and one over the image where Wan reads one.

    Args:
        config: of a `WanTransformer3DModel`.
        size: latent height and width.
        chunk_latents: the most latents of a chunk.
        text_tokens: of a prompt.
    """
    _, p, q = config["patch_size"]
    frame_tokens = (size[0] // p) * (size[1] // q)
    querying = StreamLayout("video", 0, kept=False, frame_tokens=frame_tokens)
    streams = {
        "video_self": (StreamLayout("video", chunk_latents * frame_tokens, frame_tokens=frame_tokens),),
        "video_text": (querying, StreamLayout("text", text_tokens, kept=False, constant=True)),
    }
    if config.get("image_dim") is not None:
        streams["video_image"] = (querying, StreamLayout("image", IMAGE_TOKENS, kept=False))
    heads = (config["num_layers"], config["num_attention_heads"], config["attention_head_dim"])
    return [SiteLayout(kind, *heads, layouts) for kind, layouts in streams.items()]
