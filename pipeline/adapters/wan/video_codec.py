"""Wan's video autoencoders, 2.1 and 2.2, as a codec that decodes chunk by chunk with an explicit cache.

diffusers' `AutoencoderKLWan` decodes one latent at a time, and each causal convolution caches its last two input
feature maps. With these as the state, decoding can stop after any latent and resume with the same bits.

Shapes: b batch, f latent frames, n frames, c channels, h w height and width of a latent, H W of the picture.
"""

from math import ceil
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from einops import rearrange
from torch import Tensor, nn

from longtake.pipeline.models.protocols import DecoderState

PAST_OF_A_CONVOLUTION = 2
"""Earlier feature maps in the window of a causal convolution of size three."""


class WanVideoCodec:
    """RGB frames in -1..1 [b 1+4k 3 H W] <-> latents [b 1+k c h w] of zero mean and unit variance.

    Args:
        vae: of either version, in float32 or higher precision, as published.
    """

    lookahead = 0

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae
        self.left_context = left_context(vae.decoder)
        self._num_convolutions = sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())
        mean, std = (torch.tensor(values) for values in (vae.config.latents_mean, vae.config.latents_std))
        self._mean, self._std = (rearrange(x.to(vae.device, vae.dtype), "c -> c 1 1") for x in (mean, std))

    @property
    def stride(self) -> int:
        """Pixels of the picture per pixel of a latent, on each side."""
        return int(self.vae.config.scale_factor_spatial)

    def encode(self, frames: Tensor) -> Tensor:
        """The modes of the latents [b 1+k c h w] of frames [b 1+4k 3 H W]."""
        x = rearrange(frames.to(self.vae.device, self.vae.dtype), "b n c h w -> b c n h w")
        latents: Tensor = self.vae.encode(x).latent_dist.mode()
        return (rearrange(latents, "b c f h w -> b f c h w") - self._mean) / self._std

    def decode(self, latents: Tensor, state: DecoderState, final: bool = True) -> tuple[Tensor, DecoderState]:
        """Frames [b n 3 H W] of latents [b f c h w]: four per latent, one for a section's first latent.

        `final` has no effect, since the decoder does not look ahead.
        """
        del final
        vae = self.vae
        x = rearrange(latents.to(vae.device, vae.dtype) * self._std + self._mean, "b f c h w -> f b c 1 h w")
        frames = []
        for latent in x:
            frame, state = self._decode_one(latent, state)
            frames.append(frame)
        return rearrange(torch.cat(frames, dim=2), "b c n h w -> b n c h w"), state

    def _decode_one(self, latent: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Frames [b 3 n H W] of one latent [b c 1 h w], continuing from the state of the latents before it."""
        cache: list[Any] = [None] * self._num_convolutions if state is None else list(state)
        x = self.vae.post_quant_conv(latent)
        x = self.vae.decoder(x, feat_cache=cache, feat_idx=[0], first_chunk=state is None)
        patch = self.vae.config.patch_size or 1
        frames = rearrange(x, "b (c q p) n h w -> b c n (h p) (w q)", p=patch, q=patch).clamp(-1, 1)
        return frames.to(torch.promote_types(frames.dtype, torch.float32)), tuple(cache)


def left_context(decoder: nn.Module) -> int:
    """Number of earlier latents that influence a latent's frames.

    Computed backwards from a latent's earliest frame: each convolution over time reaches two maps further into the
    past, and where the frame rate doubles, maps 2i-1 and 2i are computed from map i.
    """
    convolutions = [(name, conv) for name, conv in decoder.named_modules() if isinstance(conv, WanCausalConv3d)]
    over_time = [name for name, conv in convolutions if conv.kernel_size[0] > 1]
    frames = 2 ** sum(map(_doubles, over_time))
    earliest: int = 1 - frames
    for name in reversed(over_time):
        if _doubles(name):
            earliest = ceil(earliest / 2)
        earliest -= PAST_OF_A_CONVOLUTION
    return -earliest


def _doubles(name: str) -> bool:
    """Whether a convolution doubles the frame rate, by diffusers' naming."""
    return name.endswith(".time_conv")
