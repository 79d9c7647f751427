"""LTX-2's video decoder as a stream: diffusers' networks, with the state that they need between passes.

Each convolution over time keeps its last input frames, so nothing is computed twice. A convolution that looks ahead
outputs a frame once the next ones are known; residual inputs are delayed by the same amount.

Shapes: b batch, f latent frames, c channels, n frames at the rate of the layer, h w height and width.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import ceil, prod
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import (
    LTX2VideoCausalConv3d,
    LTX2VideoDecoder3d,
    LTX2VideoResnetBlock3d,
    LTX2VideoUpsampler3d,
)
from einops import rearrange
from torch import Tensor, nn

Tails = Mapping[int, Tensor]
"""The frames that each layer keeps for the next latents, by the layer's number in order of execution."""


def decode_more(
    decoder: LTX2VideoDecoder3d, latents: Tensor, tails: Tails | None, final: bool
) -> tuple[Tensor | None, Tails]:
    """Frames [b 3 n h*stride w*stride] that become final with more latents [b c f h w], and the new tails.

    Args:
        tails: None at the start of a section.
        final: whether these latents end the section.
    """
    stream = _DecoderPass(decoder.is_causal, tails or {}, final)
    x = latents
    for step in (*steps(decoder), decoder.norm_out, decoder.conv_act, decoder.conv_out):
        x = stream(step, x)
        if not x.shape[2]:
            return None, stream.tails
    patch = {"t": decoder.patch_size_t, "p": decoder.patch_size, "q": decoder.patch_size}
    return rearrange(x, "b (c t q p) n h w -> b c (n t) (h p) (w q)", **patch), stream.tails


def steps(decoder: LTX2VideoDecoder3d) -> Iterator[nn.Module]:
    """The decoder's layers before the head, in order of execution."""
    yield decoder.conv_in
    yield from decoder.mid_block.resnets
    for block in decoder.up_blocks:
        if block.conv_in is not None:
            yield block.conv_in
        yield from block.upsamplers or ()
        yield from block.resnets


def reach(decoder: LTX2VideoDecoder3d) -> tuple[int, int]:
    """Number of latents before and after a latent that influence its frames."""
    past, ahead = (2, 0) if decoder.is_causal else (1, 1)
    stride, convolutions = 1, Fraction()
    for step in (*steps(decoder), decoder.conv_out):
        convolutions += sum(isinstance(m, LTX2VideoCausalConv3d) for m in step.modules()) * Fraction(1, stride)
        if isinstance(step, LTX2VideoUpsampler3d):
            stride *= step.stride[0]
    return ceil(past * convolutions), ceil(ahead * convolutions)


class _DecoderPass:
    """One pass of latents through the decoder; turns the tails of the last pass into those for the next."""

    def __init__(self, causal: bool, tails: Tails, final: bool) -> None:
        self._ahead, self._before, self._final = 0 if causal else 1, tails, final
        self.tails, self._place = dict(tails), -1

    def __call__(self, step: Any, x: Tensor) -> Tensor:
        match step:
            case LTX2VideoCausalConv3d():
                return self._convolved(step, x)
            case LTX2VideoResnetBlock3d():
                return self._resnet(step, x)
            case LTX2VideoUpsampler3d():
                return self._upsampled(step, x)
        y: Tensor = step(x)
        return y

    def _resnet(self, block: LTX2VideoResnetBlock3d, x: Tensor) -> Tensor:
        y = self._convolved(block.conv1, block.nonlinearity(block.norm1(x)))
        y = self._convolved(block.conv2, block.nonlinearity(block.norm2(y)))
        if block.conv_shortcut is not None:
            x = block.conv_shortcut(block.norm3(x.movedim(1, -1)).movedim(-1, 1))
        return y + self._delayed(x, y.shape[2])

    def _upsampled(self, block: LTX2VideoUpsampler3d, x: Tensor) -> Tensor:
        y = self._convolved(block.conv, x)
        same, finer = self._delayed(x, y.shape[2]), dict(zip("tpq", block.stride, strict=True))
        y = rearrange(y, "b (c t p q) n h w -> b c (n t) (h p) (w q)", **finer)
        if block.residual:
            same = rearrange(same, "b (c t p q) n h w -> b c (n t) (h p) (w q)", **finer)
            y = y + same.repeat(1, prod(block.stride) // block.upscale_factor, 1, 1, 1)
        return y[:, :, block.stride[0] - 1 :] if self._opens(y) else y

    def _convolved(self, convolution: LTX2VideoCausalConv3d, x: Tensor) -> Tensor:
        """The output frames that `x` completes: fewer than in `x` at a section's start, more at its end."""
        others = convolution.kernel_size[0] - 1
        ahead = others // 2 * self._ahead
        window = self._joined(x, opening=others - ahead)
        if self._final:
            window = torch.cat((window, window[:, :, -1:].repeat(1, 1, ahead, 1, 1)), dim=2)
        if window.shape[2]:
            self.tails[self._place] = window[:, :, -others:].clone()
        if window.shape[2] <= others:
            return x.new_empty(x.shape[0], convolution.out_channels, 0, *x.shape[3:])
        y: Tensor = convolution.conv(window)
        return y

    def _delayed(self, x: Tensor, num_frames: int) -> Tensor:
        """The oldest `num_frames` of the delay line, after `x` was appended to it."""
        waiting = self._joined(x)
        self.tails[self._place] = waiting[:, :, num_frames:].clone()
        return waiting[:, :, :num_frames]

    def _joined(self, x: Tensor, opening: int = 0) -> Tensor:
        """`x` after the tail of this layer, or at a section's start after `opening` copies of the first frame."""
        self._place += 1
        before = self._before.get(self._place)
        return torch.cat((x[:, :, :1].repeat(1, 1, opening, 1, 1) if before is None else before, x), dim=2)

    def _opens(self, y: Tensor) -> bool:
        """Whether `y` holds the first frames of a section at this layer."""
        self._place += 1
        if y.shape[2]:
            self.tails[self._place] = y.new_empty(0)
        return self._place not in self._before
