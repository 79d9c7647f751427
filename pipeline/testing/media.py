"""A moving picture and a tone with known values at every frame and sample, without a model.

Shapes: f frames, h height, w width, c channels, n samples.
"""

from collections.abc import Sequence
from math import pi

import torch
from einops import rearrange

from longtake.pipeline.clock import ChunkSpan, MediaClock
from longtake.pipeline.values import FrameChunk, SoundChunk

_BASE_HZ = 440.0


def fake_spans(clock: MediaClock, lengths: Sequence[int]) -> tuple[ChunkSpan, ...]:
    """A film of one scene in chunks of the given numbers of frames, with one frame per latent."""
    borders = [sum(lengths[:count]) for count in range(len(lengths) + 1)]
    return tuple(_span(clock, borders, index) for index in range(len(lengths)))


def _span(clock: MediaClock, borders: Sequence[int], index: int) -> ChunkSpan:
    frames = range(borders[index], borders[index + 1])
    samples = range(clock.samples(frames.start), clock.samples(frames.stop))
    return ChunkSpan(
        index=index,
        section=0,
        scene=0,
        scene_start=0,
        latents=frames,
        audio_latents=range(samples.start // clock.audio_stride, samples.stop // clock.audio_stride),
        frames=frames,
        samples=samples,
        start_s=clock.seconds(frames.start),
        stop_s=clock.seconds(frames.stop),
        ends_section=frames.stop == borders[-1],
    )


def fake_frames(span: ChunkSpan, height: int, width: int) -> FrameChunk:
    """Colour ramps that scroll one pixel per frame, and a white bar that crosses in 32 frames; uint8 [f h w 3]."""
    frame = rearrange(torch.arange(span.frames.start, span.frames.stop), "f -> f 1 1")
    row = rearrange(torch.arange(height), "h -> 1 h 1")
    column = rearrange(torch.arange(width), "w -> 1 1 w")
    ramps = ((column + frame) * 3 + 0 * row, (row + frame) * 3 + 0 * column, (row + column) * 2 + frame)
    picture = _bounce(torch.stack(ramps, dim=-1))
    bar = (column - frame * width // 32) % width < max(2, width // 16)
    picture[bar.expand(picture.shape[:-1])] = 255
    return FrameChunk(span, picture.to(torch.uint8))


def _bounce(ramp: torch.Tensor) -> torch.Tensor:
    """Fold a ramp into 0..240..0, so that it has no jumps."""
    return 240 - (ramp % 480 - 240).abs()


def fake_sound(samples: range, sample_rate: int, channels: int) -> SoundChunk:
    """A sine at half scale, continuous over the film, a fifth higher in each further channel; float32 [c n]."""
    times_s = torch.arange(samples.start, samples.stop, dtype=torch.float64) / sample_rate
    tones = [0.5 * torch.sin(2 * pi * _BASE_HZ * 1.5**channel * times_s) for channel in range(channels)]
    pcm = torch.stack(tones) if tones else torch.zeros(0, len(samples))
    return SoundChunk(samples.start, sample_rate, pcm.float())
