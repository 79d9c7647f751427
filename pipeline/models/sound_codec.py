"""A small sound autoencoder: an MDCT, and a learned linear basis for its frames.

The MDCT (Princen and Bradley, 1986) with a sine window splits sound into frames of two hops that overlap by half and
cancel each other's aliasing exactly, so frame borders are inaudible. Frame i is centred on i*hop and extends one hop to
either side. The samples between two centres need both frames, so the decoder looks one latent ahead. A section's last
latent has no successor, so the last hop fades out.

The channels of stereo sound share each latent. They are rows of the batch, as one film has no other rows.

Shapes: b batch, m channels of the sound, l latents, c channels of a latent, n samples.
"""

from dataclasses import dataclass
from math import pi, sqrt

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from longtake.pipeline.models.protocols import DecoderState


@dataclass(frozen=True)
class SoundCodecConfig:
    """Sizes of a `SoundCodec`: samples per second, samples per latent, channels of a latent and of the sound."""

    sample_rate: int = 16_000
    hop: int = 800
    latent_channels: int = 48
    channels: int = 1


class SoundCodec(nn.Module):
    """Sound in -1..1 [(b m) n] <-> latents [b l c]."""

    left_context = 1
    lookahead = 1

    def __init__(self, config: SoundCodecConfig) -> None:
        super().__init__()
        self.config, self.channels = config, config.channels
        low_bins = torch.eye(config.latent_channels, config.channels * config.hop)
        self.basis = nn.Parameter(low_bins)
        self.scale = nn.Parameter(torch.full((config.latent_channels,), 0.1))
        self.register_buffer("mdct", windowed_mdct(config.hop), persistent=False)
        self.mdct: Tensor

    def encode(self, sound: Tensor) -> Tensor:
        """Latents [b l c] of sound [(b m) l*hop]; silence is assumed before it and after it."""
        latents: Tensor = self.spectrum(sound) @ self.basis.T / self.scale
        return latents

    def spectrum(self, sound: Tensor) -> Tensor:
        """The MDCT frames [b l m*hop] of sound [(b m) l*hop], channel after channel."""
        hop = self.config.hop
        padded = functional.pad(sound, (hop, 0))
        frames = padded.unfold(-1, 2 * hop, hop) @ self.mdct
        return rearrange(frames, "(b m) l hop -> b l (m hop)", m=self.channels)

    def decode(self, latents: Tensor, state: DecoderState, final: bool) -> tuple[Tensor, DecoderState]:
        """Complete samples [(b m) n], and the half frames that the next latent completes; see the module docstring."""
        spectrum = (latents.to(self.scale.dtype) * self.scale) @ self.basis
        frames = rearrange(spectrum, "b l (m hop) -> (b m) l hop", m=self.channels) @ self.mdct.T
        rising, falling = rearrange(frames, "b l (two hop) -> two b l hop", two=2)
        if state is not None:
            falling = torch.cat((state, falling), dim=1)
        else:
            rising = rising[:, 1:]
        complete = falling[:, : rising.shape[1]] + rising
        waiting = falling[:, rising.shape[1] :]
        blocks = torch.cat((complete, waiting), dim=1) if final else complete
        samples: Tensor = rearrange(blocks, "b l hop -> b (l hop)")
        return samples, waiting if waiting.shape[1] else None


def windowed_mdct(hop: int) -> Tensor:
    """The sine-windowed MDCT of frames of `2 * hop` samples as a matrix [2*hop hop] with orthonormal frames."""
    n = torch.arange(2 * hop, dtype=torch.float64) + 0.5
    k = torch.arange(hop, dtype=torch.float64) + 0.5
    window = torch.sin(pi / (2 * hop) * n)
    cosines = torch.cos(pi / hop * torch.outer(n + hop / 2, k))
    return (window.unsqueeze(1) * cosines * sqrt(2 / hop)).to(torch.get_default_dtype())
