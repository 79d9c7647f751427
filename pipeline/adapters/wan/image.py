"""The conditioning of Wan's image-to-video weights: latents of the picture that they continue, and its CLIP tokens
(Radford et al., arXiv 2103.00020).

Shapes: n frames, f latent frames, m mask channels, c channels, h w height and width of a latent, i image tokens.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from longtake.pipeline.adapters.wan.denoiser import LATENT_FRAMES
from longtake.pipeline.adapters.wan.video_codec import WanVideoCodec


class WanImage:
    """Builds the streams `condition` and `image` of `WanDenoiser`.

    Args:
        codec: the video codec.
        clip: loads CLIP's image processor and encoder; None for weights without CLIP (2.2).
    """

    def __init__(self, codec: WanVideoCodec, clip: Callable[[], tuple[Any, Any]] | None) -> None:
        self._codec, self._load_clip = codec, clip

    def condition(self, frames: Tensor, num_latents: int) -> dict[str, Tensor]:
        """The streams for a pass over `num_latents` latents that begin with `frames` [n 3 H W] in -1..1.

        Returns:
            "condition" [f m+c h w], extra channels of each latent; with CLIP, also "image" tokens [i c].
        """
        found = {"condition": self._condition(frames, num_latents)}
        if self._load_clip is not None:
            found["image"] = self._image(frames[0])
        return found

    def after(self, latents: Tensor, num_latents: int) -> dict[str, Tensor]:
        """The same for a pass that begins with latents [k c h w], decoded as the first latents of a section."""
        frames, _ = self._codec.decode(latents.unsqueeze(0), None)
        return self.condition(frames[0], num_latents)

    def _condition(self, frames: Tensor, num_latents: int) -> Tensor:
        """A mask of the given frames, then the latents of these frames followed by grey ones."""
        total = 1 + LATENT_FRAMES * (num_latents - 1)
        grey = frames.new_zeros(total - len(frames), *frames.shape[1:])
        latents = self._codec.encode(torch.cat([frames, grey]).unsqueeze(0))[0]
        given = (torch.arange(total) < len(frames)).to(latents)
        given = torch.cat([given[:1].expand(LATENT_FRAMES - 1), given])
        _, _, h, w = latents.shape
        return torch.cat([repeat(given, "(f m) -> f m h w", m=LATENT_FRAMES, h=h, w=w), latents], dim=1)

    def _image(self, frame: Tensor) -> Tensor:
        """CLIP's tokens [i c] of a frame [3 H W], taken before its last layer."""
        processor, encoder = self._clip
        pixels = ((frame.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        seen = processor(images=rearrange(pixels, "c h w -> h w c").numpy(), return_tensors="pt")
        pixel_values = seen["pixel_values"].to(encoder.device, encoder.dtype)
        tokens: Tensor = encoder(pixel_values=pixel_values, output_hidden_states=True).hidden_states[-2][0]
        return tokens

    @cached_property
    def _clip(self) -> tuple[Any, Any]:
        assert self._load_clip is not None
        return self._load_clip()
