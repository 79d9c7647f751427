"""A small causal video autoencoder: four frames and 8x8 pixels per latent, without a special first frame.

The encoder sees each group of frames alone. The decoder also sees the past: at two depths a latent frame is combined
with the one before it, so motion continues across group borders. Its state is one feature map per depth, and a film
decoded in chunks equals the film decoded at once.

Shapes: b batch, f latent frames, s frames in one latent, c channels, h w height and width (pixels or latents).
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from longtake.pipeline.models.protocols import DecoderState

TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 8


@dataclass(frozen=True)
class VideoCodecConfig:
    """Sizes of a `VideoCodec`: channels of a latent, and of the features at 1/4 and 1/8 of the picture's size."""

    latent_channels: int = 12
    fine_width: int = 64
    coarse_width: int = 128


class VideoCodec(nn.Module):
    """RGB frames in -1..1 [b f*4 3 h w] <-> latents [b f c h/8 w/8] of zero mean and unit variance."""

    left_context = 2
    lookahead = 0

    def __init__(self, config: VideoCodecConfig) -> None:
        super().__init__()
        fine, coarse, pixels = config.fine_width, config.coarse_width, TEMPORAL_STRIDE * 3 * 16
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(pixels, fine, 3, padding=1),
            ResidualBlock(fine),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            ResidualBlock(coarse),
            ResidualBlock(coarse),
            nn.Conv2d(coarse, config.latent_channels, 3, padding=1),
        )
        self.norm = nn.BatchNorm2d(config.latent_channels, affine=False)
        self.coarse = CausalPair(config.latent_channels, coarse)
        self.coarse_blocks = nn.Sequential(ResidualBlock(coarse), ResidualBlock(coarse))
        self.upscale = nn.Sequential(nn.Conv2d(coarse, 4 * fine, 3, padding=1), nn.PixelShuffle(2))
        self.fine = CausalPair(fine, fine)
        self.fine_blocks = nn.Sequential(
            ResidualBlock(fine), ResidualBlock(fine), nn.Conv2d(fine, pixels, 3, padding=1), nn.PixelShuffle(4)
        )

    def encode(self, frames: Tensor) -> Tensor:
        """Latents [b f c h/8 w/8] of frames [b f*4 3 h w]."""
        groups = rearrange(frames, "b (f s) c h w -> (b f) (s c) h w", s=TEMPORAL_STRIDE)
        latents: Tensor = self.norm(self.encoder(groups))
        return rearrange(latents, "(b f) c h w -> b f c h w", b=frames.shape[0])

    def decode(self, latents: Tensor, state: DecoderState, final: bool = True) -> tuple[Tensor, DecoderState]:
        """Frames [b f*4 3 h w] of latents [b f c h w], and the state that the next latents continue from."""
        coarse_state, fine_state = state or (None, None)
        x, coarse_state = self.coarse(latents.to(self.coarse.conv.weight.dtype), coarse_state)
        b = latents.shape[0]
        x = self.upscale(self.coarse_blocks(rearrange(x, "b f c h w -> (b f) c h w")))
        x, fine_state = self.fine(rearrange(x, "(b f) c h w -> b f c h w", b=b), fine_state)
        x = self.fine_blocks(rearrange(x, "b f c h w -> (b f) c h w"))
        frames = rearrange(x, "(b f) (s c) h w -> b (f s) c h w", b=b, s=TEMPORAL_STRIDE)
        return frames, (coarse_state, fine_state)


class CausalPair(nn.Module):
    """A convolution over each latent frame and the one before it; zeros before the first."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * in_width, out_width, 3, padding=1)

    def forward(self, x: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features [b f c h w], and the last input frame [b 1 c h w] as the state for the next call."""
        last = torch.zeros_like(x[:, :1]) if last is None else last
        before = torch.cat((last, x[:, :-1]), dim=1)
        pairs = rearrange([before, x], "two b f c h w -> (b f) (two c) h w")
        return rearrange(self.conv(pairs), "(b f) c h w -> b f c h w", b=x.shape[0]), x[:, -1:]


class ResidualBlock(nn.Module):
    """Two normalised convolutions with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, width), width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Features shaped like `x` [b c h w]."""
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(functional.silu(norm(y)))
        return x + y
