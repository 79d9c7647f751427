"""FlashVSR's projector: low-resolution frames to tokens that are added to those of the latents.

Four frames become one latent frame's tokens, by two causal convolutions that halve time. Both published variants have
the same tensors and differ in what precedes a group of four frames (`PAST`). Weights of one variant run in the code of
the other, and give ghost images.

Shapes: f latent frames, c channels, t frames, h w token rows and columns, H W picture rows and columns, d width.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

Variant = Literal["v1", "v1.1"]

GROUP_FRAMES = 4
PIXELS = 16
TAIL = 2


def _own_tail(_: Tensor, group: Tensor) -> Tensor:
    return group[:, -TAIL:]


def _tail_before(before: Tensor, _: Tensor) -> Tensor:
    return before


PAST: Mapping[Variant, Callable[[Tensor, Tensor], Tensor]] = {"v1": _own_tail, "v1.1": _tail_before}
"""(the last frames before a group, the group) -> the frames that a convolution sees before the group; each [c t h w].

v1 was trained with its cache overwritten before use, so a group is preceded by its own last frames.
"""


class Tails(NamedTuple):
    """The projector's state: the last two inputs of each convolution, [c 2 h w]."""

    pixels: Tensor
    features: Tensor


class Projector(nn.Module):
    """Tokens of one latent frame from the group of frames that ends four frames after it.

    Args:
        hidden: channels of the two convolutions.
        width: of a token.
        variant: which of the published weights these are.
    """

    def __init__(self, hidden: tuple[int, int], width: int, variant: Variant) -> None:
        super().__init__()
        kernel, stride = (GROUP_FRAMES, 3, 3), (2, 1, 1)
        self.conv1 = nn.Conv3d(3 * PIXELS**2, hidden[0], kernel, stride)
        self.norm1 = ChannelNorm(hidden[0])
        self.conv2 = nn.Conv3d(hidden[0], hidden[1], kernel, stride)
        self.norm2 = ChannelNorm(hidden[1])
        self.linear_layers = nn.ModuleList([nn.Linear(hidden[1], width)])
        self._past = PAST[variant]

    def start(self, frame: Tensor) -> Tails:
        """The state after the first frame [3 H W], as if it had been repeated before."""
        pixels = _pixels(repeat(frame, "c h w -> t c h w", t=GROUP_FRAMES))
        features = self._convolve(self.conv1, self.norm1, pixels[:, -TAIL:], pixels)
        return Tails(pixels[:, -TAIL:], features)

    def forward(self, group: Tensor, tails: Tails) -> tuple[Tensor, Tails]:
        """Tokens [h w d] for the next group of frames [4 3 H W], and the state after it."""
        pixels = _pixels(group)
        features = self._convolve(self.conv1, self.norm1, self._past(tails.pixels, pixels), pixels)
        tokens = self._convolve(self.conv2, self.norm2, self._past(tails.features, features), features)
        projected: Tensor = self.linear_layers[0](rearrange(tokens, "c 1 h w -> h w c"))
        return projected, Tails(pixels[:, -TAIL:].clone(), features[:, -TAIL:].clone())

    def _convolve(self, conv: nn.Module, norm: nn.Module, past: Tensor, group: Tensor) -> Tensor:
        video = functional.pad(torch.cat((past, group), dim=1), (1, 1, 1, 1, 0, 0), mode="replicate")
        return functional.silu(norm(conv(video)))


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of [c t h w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`x` with unit mean square over its channels, times `gamma`."""
        scale: Tensor = self.gamma * x.shape[0] ** 0.5
        return functional.normalize(x, dim=0) * scale


def _pixels(frames: Tensor) -> Tensor:
    return rearrange(frames, "t c (h p) (w q) -> (c p q) t h w", p=PIXELS, q=PIXELS)
