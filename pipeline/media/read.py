"""Films read back: pictures, sound and the book-keeping of their timestamps, from any fsspec URL.

Shapes: f frames, h height, w width, c channels, n samples.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import fsspec
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Stream
from av.video.frame import VideoFrame
from torch import Tensor

from pipeline.errors import MediaError
from pipeline.media.ffmpeg import EXACT_SCALER, FULL, reported

_BUFFER_BYTES = 1 << 20
_UNSPECIFIED = 2
_HD_HEIGHT = 720


@dataclass(frozen=True)
class DecodedFilm:
    """A whole film in memory.

    Args:
        frames: uint8 [f h w 3], RGB, full range.
        frame_times_s: when each frame is shown, exact.
        pcm: float32 [c n], the encoder's priming and padding removed; 0 channels for a silent film.
        sample_rate: samples per second; 0 for a silent film.
        sound_start_s: when the first sample sounds.
    """

    frames: Tensor
    frame_times_s: tuple[Fraction, ...]
    pcm: Tensor
    sample_rate: int
    sound_start_s: Fraction


@dataclass(frozen=True)
class StreamCount:
    """One stream, counted without decoding it.

    Args:
        num_packets: packets, of which some may hold only priming.
        start_s: when its first packet that is not all priming is shown.
        stop_s: when its last packet ends.
        header_s: the duration that the container's header claims; None if it claims nothing.
        monotone: whether every packet starts later than the one before, in decoding order too.
    """

    num_packets: int
    start_s: Fraction
    stop_s: Fraction
    header_s: Fraction | None
    monotone: bool


@dataclass(frozen=True)
class FilmCount:
    """What a film's container holds, counted; `audio` is None for a silent film."""

    video: StreamCount
    audio: StreamCount | None
    metadata: dict[str, str]


def count_film(url: str) -> FilmCount:
    """Count a film's packets and times; MediaError if it cannot be read."""
    with _opened(url) as container:
        streams = [container.streams.video[0], *container.streams.audio[:1]]
        times: dict[int, list[tuple[int, int, int]]] = {stream.index: [] for stream in streams}
        for packet in container.demux(streams):
            if packet.size and packet.pts is not None and packet.dts is not None:
                times[packet.stream_index].append((packet.pts, packet.dts, packet.duration or 0))
        counts = [_count(stream, times[stream.index]) for stream in streams]
        return FilmCount(counts[0], counts[1] if len(counts) > 1 else None, dict(container.metadata))


def _count(stream: Stream, times: Sequence[tuple[int, int, int]]) -> StreamCount:
    tick_s = stream.time_base
    if tick_s is None or not times:
        raise MediaError(f"the {stream.type} stream holds no packets with timestamps; the file is damaged or empty")
    heard = [pts for pts, _, duration in times if pts + duration > 0]
    return StreamCount(
        num_packets=len(times),
        start_s=min(heard) * tick_s,
        stop_s=max(pts + duration for pts, _, duration in times) * tick_s,
        header_s=None if stream.duration is None else stream.duration * tick_s,
        monotone=all(late[0] > early[0] and late[1] > early[1] for early, late in pairwise(times)),
    )


def read_film(url: str) -> DecodedFilm:
    """Decode a whole film; MediaError if it cannot be read."""
    with _opened(url) as container:
        tick_s = container.streams.video[0].time_base or Fraction(0)
        decoded = [((frame.pts or 0) * tick_s, _to_rgb(frame)) for frame in container.decode(video=0)]
    with _opened(url) as container:
        start_s, sample_rate, pcm = _decode_sound(container)
    return DecodedFilm(
        frames=torch.from_numpy(np.stack([rgb for _, rgb in decoded])),
        frame_times_s=tuple(time_s for time_s, _ in decoded),
        pcm=pcm,
        sample_rate=sample_rate,
        sound_start_s=start_s,
    )


def _decode_sound(container: InputContainer) -> tuple[Fraction, int, Tensor]:
    if not container.streams.audio:
        return Fraction(0), 0, torch.zeros(0, 0)
    stream = container.streams.audio[0]
    to_float = av.AudioResampler(format="fltp")
    pieces: list[Tensor] = []
    start = stop = 0
    for packet in container.demux(stream):
        stop = max(stop, (packet.pts or 0) + (packet.duration or 0))
        for frame in packet.decode():
            start = start if pieces else (frame.pts or 0)
            pieces += [torch.from_numpy(planar.to_ndarray()) for planar in to_float.resample(frame)]
    if stream.time_base is None or not pieces:
        raise MediaError("the sound stream holds nothing that decodes; the file is damaged or empty")
    # A decoder returns whole frames: what lies after the last packet's end is the encoder's padding.
    num_samples = round((stop - start) * stream.time_base * stream.rate)
    return start * stream.time_base, stream.rate, torch.cat(pieces, dim=1)[:, :num_samples]


@contextmanager
def _opened(url: str) -> Iterator[InputContainer]:
    with (
        fsspec.open(url, "rb") as file,
        reported(f"reading {url}"),
        av.open(file, "r", buffer_size=_BUFFER_BYTES) as container,
    ):
        yield container


def _to_rgb(frame: VideoFrame) -> np.ndarray:
    # Footage without tags: HD is BT.709, anything smaller BT.601.
    untagged = 1 if frame.height >= _HD_HEIGHT else 5
    matrix = untagged if frame.colorspace == _UNSPECIFIED else frame.colorspace
    return frame.reformat(
        format="rgb24", src_colorspace=matrix, dst_color_range=FULL, interpolation=EXACT_SCALER, threads=1
    ).to_ndarray()
