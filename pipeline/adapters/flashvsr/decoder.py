"""FlashVSR's tiny decoder: latents and low-resolution frames to pictures.

TAEHV's decoder (madebyollin/taehv), but wider, with another convolution after each activation, and with the enlarged
low-resolution frames as further input channels.

Shapes: t steps in time, s steps that one grows into, c channels, h w rows and columns.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

LATENT_FRAMES = 4
PIXELS = 8


class TinyDecoder(nn.Module):
    """Four pictures from each latent frame, remembering one step of each of its nine memory blocks.

    Args:
        channels: at an eighth, a quarter, half and the whole of the picture's size.
        latent_channels: of Wan's latents.
    """

    def __init__(self, channels: tuple[int, int, int, int], latent_channels: int) -> None:
        super().__init__()
        first, second, third, last = channels
        given = 3 * LATENT_FRAMES * PIXELS**2
        self.decoder = nn.Sequential(
            SoftClamp(),
            _conv(given + latent_channels, first),
            *(nn.ReLU(), _conv(first, first, bias=False), nn.ReLU()),
            *_grow(first, second, steps=1),
            *_grow(second, third, steps=2),
            *_grow(third, last, steps=2),
            *(nn.ReLU(), _conv(last, last, bias=False), nn.ReLU()),
            _conv(last, 3),
        )

    def start(self, height: int, width: int) -> list[Tensor]:
        """The memory before the first latent frame, each [1 c h w], for pictures of this size."""
        memory, scale, parameter = [], 1, next(self.parameters())
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                size = (scale * height // PIXELS, scale * width // PIXELS)
                memory.append(parameter.new_zeros(1, layer.channels, *size))
            scale *= 2 if isinstance(layer, nn.Upsample) else 1
        return memory

    def forward(self, latent: Tensor, frames: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Four pictures [4 3 H W] in about 0..1, and the memory after them.

        Args:
            latent: [c h w].
            frames: the enlarged low-resolution frames of the same time, [4 3 H W] in -1..1.
            memory: as `start` or the latent frame before returned it.
        """
        given = rearrange(frames, "t c (h p) (w q) -> (c t p q) h w", p=PIXELS, q=PIXELS)
        x = torch.cat((given, latent)).unsqueeze(0)
        before, after = iter(memory), []
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                after.append(x[-1:].clone())
                x = layer(x, torch.cat((next(before), x[:-1])))
            else:
                x = layer(x)
        return x, after


class MemoryBlock(nn.Module):
    """Residual convolutions over a step and the step before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Sequential(
            _conv(2 * channels, channels), nn.ReLU(), _conv(channels, channels), nn.ReLU(), _conv(channels, channels)
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Steps [t c h w], each with the input of the step `before` it."""
        return torch.relu(self.conv(torch.cat((x, before), dim=1)) + x)


class GrowTime(nn.Module):
    """Each step becomes `steps` steps."""

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self.conv = nn.Conv2d(channels, channels * steps, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Steps [t c h w] to [t*s c h w]."""
        grown: Tensor = rearrange(self.conv(x), "t (s c) h w -> (t s) c h w", s=self._steps)
        return grown


class SoftClamp(nn.Module):
    """Keeps latents within -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, clamped softly."""
        return torch.tanh(x / 3) * 3


def _grow(channels: int, following: int, steps: int) -> list[nn.Module]:
    """Three memory blocks, then twice the size and `steps` times the length."""
    blocks = (MemoryBlock(channels) for _ in range(3))
    return [*blocks, nn.Upsample(scale_factor=2), GrowTime(channels, steps), _conv(channels, following, bias=False)]


def _conv(channels: int, following: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, following, 3, padding=1, bias=bias)
