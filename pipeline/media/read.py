"""Reading films: pictures, sound and their timestamps, from any fsspec URL.

Shapes: f frames, h height, w width, c channels, n samples.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av
import fsspec
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.ffmpeg import EXACT_SCALER, FULL, reported

_BUFFER_BYTES = 1 << 20
_UNSPECIFIED = 2
_HD_HEIGHT = 720
_AREA_SCALER = int(Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT)


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
    """What a film's container holds, counted.

    Args:
        audio: None for a silent film.
        fps: the steady rate that most frames keep, as FFmpeg guesses it.
    """

    video: StreamCount
    audio: StreamCount | None
    metadata: dict[str, str]
    fps: Fraction


def count_film(url: str) -> FilmCount:
    """Count a film's packets and times; MediaError if it cannot be read."""
    with _opened(url) as container:
        streams = [_picture(container, url), *container.streams.audio[:1]]
        tallies = {stream.index: _Tally() for stream in streams}
        for packet in container.demux(streams):
            if packet.size and packet.pts is not None and packet.dts is not None:
                tallies[packet.stream_index].add(packet.pts, packet.dts, packet.duration or 0)
        counts = [tallies[stream.index].count(stream) for stream in streams]
        fps = _picture(container, url).guessed_rate or Fraction(1)
        return FilmCount(counts[0], counts[1] if len(counts) > 1 else None, dict(container.metadata), fps)


class _Tally:
    """One stream's packets in ticks, as they pass by."""

    def __init__(self) -> None:
        self.num_packets, self.monotone = 0, True
        self.start: int | None = None
        self.stop = 0
        self.latest: tuple[int, int] | None = None

    def add(self, pts: int, dts: int, duration: int) -> None:
        if self.latest is not None:
            self.monotone &= pts > self.latest[0] and dts > self.latest[1]
        if pts + duration > 0:
            self.start = pts if self.start is None else min(self.start, pts)
        self.stop = pts + duration if not self.num_packets else max(self.stop, pts + duration)
        self.num_packets += 1
        self.latest = (pts, dts)

    def count(self, stream: Stream) -> StreamCount:
        tick_s = stream.time_base
        if tick_s is None or self.start is None:
            raise MediaError(f"the {stream.type} stream holds no packets with timestamps; the file is damaged or empty")
        return StreamCount(
            num_packets=self.num_packets,
            start_s=self.start * tick_s,
            stop_s=self.stop * tick_s,
            header_s=None if stream.duration is None else stream.duration * tick_s,
            monotone=self.monotone,
        )


def read_film(url: str) -> DecodedFilm:
    """Decode a whole film; MediaError if it cannot be read."""
    blocks = list(stream_frames(url))
    sound = stream_sound(url)
    pieces = [] if sound is None else [torch.from_numpy(piece) for piece in sound.blocks]
    return DecodedFilm(
        frames=torch.from_numpy(np.concatenate([block.frames for block in blocks])),
        frame_times_s=tuple(time_s for block in blocks for time_s in block.times_s),
        pcm=torch.cat(pieces, dim=1) if pieces else torch.zeros(0, 0),
        sample_rate=0 if sound is None else sound.rate,
        sound_start_s=Fraction(0) if sound is None else sound.start_s,
    )


@dataclass(frozen=True)
class FrameBlock:
    """Some frames that follow each other: uint8 [f h w 3], RGB, full range, and when each is shown, exact."""

    times_s: tuple[Fraction, ...]
    frames: NDArray[np.uint8]


def stream_frames(url: str, block: int = 32, longest_side: int | None = None) -> Iterator[FrameBlock]:
    """Decode a film's pictures a few at a time; MediaError if it cannot be read, or holds none.

    Args:
        block: frames to hand out together; the last block is shorter.
        longest_side: pictures that are larger are reduced to it, by the mean of the area under every pixel.
    """
    times: list[Fraction] = []
    frames: list[NDArray[np.uint8]] = []
    num_blocks = 0
    with _opened(url) as container:
        tick_s = _picture(container, url).time_base or Fraction(0)
        for frame in container.decode(video=0):
            times.append((frame.pts or 0) * tick_s)
            frames.append(to_rgb(frame, longest_side))
            if len(frames) == block:
                yield FrameBlock(tuple(times), np.stack(frames))
                num_blocks += 1
                times, frames = [], []
    if frames:
        yield FrameBlock(tuple(times), np.stack(frames))
    elif not num_blocks:
        raise MediaError(f"{url} holds no picture that decodes; the file is damaged or empty")


@dataclass(frozen=True)
class SoundStream:
    """A film's sound: `blocks` are float32 [c n] one after the other, to be gone through once.

    The encoder's priming and padding are removed, and the first sample sounds at `start_s`.
    """

    start_s: Fraction
    rate: int
    blocks: Iterator[NDArray[np.float32]]


def stream_sound(url: str) -> SoundStream | None:
    """Decode a film's sound a little at a time; None for a silent film, MediaError if it cannot be read."""
    blocks = _sound_blocks(url)
    start_s, rate, first = next(blocks)
    if rate == 0:
        return None
    return SoundStream(start_s, rate, chain((first,), (block for _, _, block in blocks)))


def _sound_blocks(url: str) -> Iterator[tuple[Fraction, int, NDArray[np.float32]]]:
    """Blocks, each with the stream's start and rate; a rate of 0 for a silent film."""
    with _opened(url) as container:
        if not container.streams.audio:
            yield Fraction(0), 0, np.zeros((0, 0), dtype=np.float32)
            return
        stream = container.streams.audio[0]
        to_float = av.AudioResampler(format="fltp")
        start: int | None = None
        stop = num_samples = 0
        tick_s = stream.time_base or Fraction(0)
        for packet in container.demux(stream):
            stop = max(stop, (packet.pts or 0) + (packet.duration or 0))
            for frame in packet.decode():
                start = (frame.pts or 0) if start is None else start
                # A decoder returns whole frames: what lies after the last packet's end is the encoder's padding.
                missing = round((stop - start) * tick_s * stream.rate) - num_samples
                for planar in to_float.resample(frame):
                    block = planar.to_ndarray()[:, : max(0, missing)].astype(np.float32, copy=False)
                    num_samples, missing = num_samples + block.shape[1], missing - block.shape[1]
                    if block.size:
                        yield start * tick_s, stream.rate, block
        if not num_samples:
            raise MediaError("the sound stream holds nothing that decodes; the file is damaged or empty")


@contextmanager
def _opened(url: str) -> Iterator[InputContainer]:
    with (
        fsspec.open(url, "rb") as file,
        reported(f"reading {url}"),
        av.open(file, "r", buffer_size=_BUFFER_BYTES) as container,
    ):
        yield container


def _picture(container: InputContainer, url: str) -> VideoStream:
    if not container.streams.video:
        raise MediaError(f"{url} holds no picture")
    return container.streams.video[0]


def to_rgb(frame: VideoFrame, longest_side: int | None = None) -> NDArray[np.uint8]:
    """A decoded frame as uint8 [h w 3], RGB, full range; reduced if a side is longer than `longest_side` pixels."""
    # Footage without tags: HD is BT.709, anything smaller BT.601.
    untagged = 1 if frame.height >= _HD_HEIGHT else 5
    matrix = untagged if frame.colorspace == _UNSPECIFIED else frame.colorspace
    reduced = longest_side is not None and max(frame.width, frame.height) > longest_side
    scale = (longest_side or 1) / max(frame.width, frame.height) if reduced else 1.0
    rgb = frame.reformat(
        width=max(1, round(frame.width * scale)),
        height=max(1, round(frame.height * scale)),
        format="rgb24",
        src_colorspace=matrix,
        dst_color_range=FULL,
        interpolation=_AREA_SCALER if reduced else EXACT_SCALER,
        threads=1,
    ).to_ndarray()
    return rgb.astype(np.uint8, copy=False)
