"""Readers of conditioning files: images, sound and the end of a film, in a model's size, rate and channels.

A picture of another aspect ratio is scaled until it covers the film's, then cropped evenly on both sides. It is never
stretched, and no bars are added. Sound is mixed down to the model's number of
channels.

Shapes: f frames, h height, w width, c channels, n samples.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TypeVar

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import resample

from longtake.pipeline.errors import MediaError, SpecError
from longtake.pipeline.given_files import ConditioningFile
from longtake.pipeline.media.read import FrameBlock, count_film, read_still, stream_frames
from longtake.pipeline.media.sound import stream_sound
from longtake.pipeline.media.source import opened
from longtake.pipeline.media.tiles import tiles_of

Value = TypeVar("Value")

_SQUARE = Fraction(1)
_MOST_PIXELS = 1 << 26  # of a picture that is scaled before it is cropped
_MARGIN_S = (
    600  # of sound beyond what is needed that may be held: a resampled song does not depend on the film's length
)


def read_or_refuse(file: ConditioningFile, reader: Callable[[str], Value]) -> Value:
    """The result of `reader` for the file's URL. Raises `SpecError` with the file's key if it fails."""
    try:
        return reader(file.url)
    except FileNotFoundError:
        raise SpecError(
            f"{file.key} is {file.url!r}; nothing is there, use a path next to the storyboard or a URL"
        ) from None
    except Exception as error:  # every file system has errors of its own: credentials, buckets, networks
        raise SpecError(f"{file.key} is {file.url!r}; it cannot be used: {error}") from error


def read_picture(url: str, width: int, height: int) -> Tensor:
    """The picture at `url`, fitted: [1 3 h w] in -1..1. Raises `MediaError` if it holds none."""
    still = read_still(url)
    return fitted(still.frames, width, height, still.pixel_aspect)


def fitted(frames: NDArray[np.uint8], width: int, height: int, pixel_aspect: Fraction = _SQUARE) -> Tensor:
    """Frames [f h w 3] of any size, scaled to cover `width` x `height` and cropped to it: [f 3 h w] in -1..1.

    Args:
        pixel_aspect: the width of a pixel by its height.

    Raises:
        MediaError: it is so narrow that most of it would be cropped.
    """
    x = rearrange(torch.from_numpy(frames), "f h w c -> f c h w").float() / 127.5 - 1
    rows, columns = x.shape[-2:]
    if (rows, columns, pixel_aspect) != (height, width, _SQUARE):
        shown = columns * pixel_aspect
        scale = max(Fraction(height, rows), width / shown)
        size = (max(height, round(rows * scale)), max(width, round(shown * scale)))
        if size[0] * size[1] > max(_MOST_PIXELS, rows * columns):
            raise MediaError(
                f"its picture is shown {float(shown):.6g} wide and {rows} high, which would have to be"
                f" {size[1]}x{size[0]} to cover {width}x{height}; crop it first"
            )
        x = functional.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[:, :, top : top + height, left : left + width].contiguous()


def film_length_s(url: str) -> Fraction:
    """The duration of the picture of the film at `url`. Raises `MediaError` if it has no picture."""
    video = count_film(url).video
    return video.stop_s - video.start_s


def is_film(url: str) -> bool:
    """Whether the file at `url` shows more than one picture."""
    with opened(url) as container:
        if tiles_of(container.streams.video):
            return False
    return count_film(url).video.num_packets > 1


def read_frames(url: str, fps: Fraction, width: int, height: int) -> Iterator[Tensor]:
    """A film of any rate as frames at `fps`, fitted: [1 3 h w] in -1..1 each.

    Each frame is the one that the film shows in the middle of the frame's time, counted from its first picture.
    """
    latest: FrameBlock | None = None
    picture: Tensor | None = None
    number, start_s = 0, Fraction(0)
    for shown in stream_frames(url, block=1, size=count_film(url).size):
        start_s = shown.times_s[0] if latest is None else start_s
        while latest is not None and Fraction(2 * number + 1, 2) / fps < shown.times_s[0] - start_s:
            picture = fitted(latest.frames, width, height, latest.pixel_aspect) if picture is None else picture
            yield picture
            number += 1
        latest, picture = shown, None
    assert latest is not None, "reading a film without a picture fails"
    yield fitted(latest.frames, width, height, latest.pixel_aspect)


def read_last_frames(url: str, num_frames: int, fps: Fraction, width: int, height: int) -> Tensor:
    """The end of a film of any rate as `num_frames` frames at `fps`, fitted: [f 3 h w] in -1..1.

    Each frame is the one that the film shows in the middle of the frame's time.
    """
    count = count_film(url)
    stop_s = count.video.stop_s
    wanted = [stop_s + Fraction(2 * index + 1, 2) / fps for index in range(-num_frames, 0)]
    kept: list[Tensor] = []
    latest: FrameBlock | None = None
    for shown in stream_frames(url, block=1, size=count.size):
        while latest is not None and len(kept) < num_frames and wanted[len(kept)] < shown.times_s[0]:
            kept.append(fitted(latest.frames, width, height, latest.pixel_aspect))
        latest = shown
    assert latest is not None, "reading a film without a picture fails"
    last = fitted(latest.frames, width, height, latest.pixel_aspect)
    return torch.cat(kept + [last] * (num_frames - len(kept)))


def read_last_sound(url: str, num_samples: int, rate: int, channels: int) -> Tensor:
    """The last `num_samples` samples of a film's sound at `rate`, up to the end of its picture: [c n] in -1..1.

    Where the film has no sound, the samples are silent.
    """
    count = count_film(url)
    sound, stop_s = stream_sound(url, channels, count.size), count.video.stop_s
    if sound is None:
        return torch.zeros(channels, num_samples)
    begin_s = stop_s - Fraction(num_samples, rate)
    first = round((begin_s - sound.start_s) * sound.rate)
    blocks: deque[tuple[int, NDArray[np.float32]]] = deque()
    at = 0
    for block in sound.blocks:
        if at + block.shape[1] > first:
            blocks.append((at, block))
        at += block.shape[1]
        if at >= first + ceil(num_samples * Fraction(sound.rate, rate)) + _MARGIN_S * sound.rate:
            break
    if not blocks:
        return torch.zeros(channels, num_samples)
    pcm = torch.from_numpy(np.concatenate([block for _, block in blocks], axis=1))
    skipped = first - blocks[0][0]
    pcm = pcm[:, skipped:] if skipped > 0 else functional.pad(pcm, (-skipped, 0))
    return _lasting(_mixed(resample(pcm, sound.rate, rate), channels), num_samples)


@dataclass(frozen=True)
class GivenSound:
    """A sound of a file.

    Args:
        pcm: [c n] in -1..1, from the start of the file.
        num_samples: how many samples there are in the file, of which `pcm` may hold only the first.
    """

    pcm: Tensor
    num_samples: int


def read_sound(url: str, rate: int, channels: int, most: int) -> GivenSound | None:
    """The first `most` samples of the sound at `url`, at `rate`; None if it has none.

    Raises `MediaError` if it is unreadable. Memory does not grow with the rest of the file.
    """
    sound = stream_sound(url, channels)
    if sound is None:
        return None
    late = max(0, round(sound.start_s * sound.rate))
    kept = ceil(most * Fraction(sound.rate, rate)) + _MARGIN_S * sound.rate
    has, blocks = late, list[NDArray[np.float32]]()
    for block in sound.blocks:
        if has < kept:
            blocks.append(block)
        has += block.shape[1]
    pcm = functional.pad(torch.from_numpy(np.concatenate(blocks, axis=1)), (min(late, kept), 0))
    num_samples = ceil(has * Fraction(rate, sound.rate))
    pcm = _mixed(resample(pcm, sound.rate, rate), channels).clamp(-1, 1)
    return GivenSound(pcm[:, :most], num_samples)


def _mixed(pcm: Tensor, channels: int) -> Tensor:
    """Sound [c n] in another number of channels, each of which is the mean of all."""
    return pcm if pcm.shape[0] == channels else pcm.mean(dim=0, keepdim=True).expand(channels, -1).contiguous()


def _lasting(pcm: Tensor, num_samples: int) -> Tensor:
    """Sound [c n], cut or padded with silence to `num_samples`."""
    return functional.pad(pcm[:, :num_samples], (0, max(0, num_samples - pcm.shape[1])))
