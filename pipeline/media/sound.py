"""The sound of a film or of a file of its own, as a player plays it: placed by its timestamps, priming removed.

Holes in the timestamps are silent, overlaps are heard once, and a stream whose channels or rate change is converted to
what it began with, by FFmpeg. Silence comes in blocks of a second, so no timestamp makes memory grow.

Shapes: c channels, n samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.source import check_decodable, codec_name, opened
from longtake.pipeline.media.timeline import Timeline, common_start_s, timed_streams

Samples = NDArray[np.float32]

# Containers store times in ticks of up to a few milliseconds: a smaller step is no hole.
_JITTER_S = Fraction(1, 100)
# FFmpeg's bound for a jump of a clock: beyond it a timestamp is wrong.
_MOST_S = 30 * 3600
# A time that is this much later than the film ends by its header is wrong too.
_LATE_S = 3600
_NEVER_S = Fraction(1 << 62)
_LAYOUTS = {1: "mono", 2: "stereo"}
# As for samples of 16 bits: the matrix is scaled so that a full mix does not clip.
_UNCLIPPED = {"rematrix_maxval": "1"}


@dataclass(frozen=True)
class SoundStream:
    """A film's sound: `blocks` are float32 [c n] one after the other, to be gone through once.

    The encoder's priming and padding are removed, and the first sample sounds at `start_s` after the film's start.
    `layout` is FFmpeg's name of the channels, such as "5.1".
    """

    start_s: Fraction
    rate: int
    layout: str
    blocks: Iterator[Samples]


def stream_sound(url: str, channels: int | None = None, size: int | None = None) -> SoundStream | None:
    """Decode a film's sound a little at a time; None for a silent film.

    Args:
        channels: mix sound of more than two channels down to one or two, as FFmpeg does; None leaves the channels.
        size: bytes of the file to read; None for all of them.

    Raises:
        MediaError: it cannot be read, or does not decode.
    """
    blocks = _trimmed_blocks(url, channels, size)
    begin = next(blocks, None)
    if begin is None:
        raise MediaError(f"{url}: no sample of its sound is presented; its times are damaged")
    start_s, rate, layout, first = begin
    if rate == 0:
        return None
    return SoundStream(start_s, rate, layout, chain((first,), (block for *_, block in blocks)))


def sound_stream(container: InputContainer) -> AudioStream | None:
    """The stream that is the film's sound: the one that is marked as the default, or the first."""
    return min(container.streams.audio, key=lambda stream: not stream.disposition & Disposition.default, default=None)


def _trimmed_blocks(url: str, channels: int | None, size: int | None) -> Iterator[tuple[Fraction, int, str, Samples]]:
    """Blocks, each with the stream's start, rate and layout; a rate of 0 for a silent film."""
    with opened(url, size) as container:
        stream = sound_stream(container)
        if stream is None:
            yield Fraction(0), 0, "", np.zeros((0, 0), dtype=np.float32)
            return
        check_decodable(stream, url)
        common_s, placed = common_start_s(container), _Placed(stream, channels, _end_s(container) + _LATE_S)
        for packet in Timeline(container).packets([stream]):
            if packet.has_sidedata("encryption_info"):
                raise MediaError(f"{url} is encrypted (Common Encryption); decrypt it first")
            if not packet.is_discard:
                placed.expect(packet.pts, packet.duration)
            try:
                frames: list[Any] = packet.decode()
            except av.FFmpegError as error:
                at = "the end" if packet.pts is None else f"{float(packet.pts * packet.time_base - common_s):.3f} s"
                raise MediaError(
                    f"{url}: its sound is damaged at {at} and does not decode ({error.strerror})"
                ) from error
            for frame in frames:
                for block in placed.add(frame):
                    yield placed.start_s - common_s, placed.rate, placed.layout, block
        for block in placed.rest():
            yield placed.start_s - common_s, placed.rate, placed.layout, block
        if not placed.num_samples:
            raise MediaError(f"{url}: its sound ({codec_name(stream)}) holds nothing that decodes")


def _end_s(container: InputContainer) -> Fraction:
    """When the film ends by its headers, on the file's clock; the bound of a jump if they do not say."""
    ends = [
        ((stream.start_time or 0) + stream.duration) * stream.time_base
        for stream in timed_streams(container)
        if stream.duration is not None and stream.time_base
    ]
    return max(ends, default=Fraction(_MOST_S))


class _Placed:
    """Decoded frames of one stream, converted and put where their times say. The latest block is held back.

    Args:
        latest_s: no time beyond this is believed.
    """

    def __init__(self, stream: AudioStream, channels: int | None, latest_s: Fraction) -> None:
        self._latest_s = latest_s
        self.start_s, self.rate, self.num_samples = Fraction(0), 0, 0
        self._tick_s = stream.time_base or Fraction(1)
        self._channels, self.layout = channels, ""
        self._converter: tuple[tuple[str, str, int], AudioResampler] | None = None
        self._stop_s: Fraction | None = None
        self._held: Samples | None = None

    def expect(self, pts: int | None, duration: int | None) -> None:
        """Take note of a packet's time: what is decoded beyond the last one's end is the encoder's padding.

        A packet without a duration ends nowhere.
        """
        if pts is not None and pts * self._tick_s > self._latest_s:
            return
        if pts is not None and duration:
            stop_s = (pts + duration) * self._tick_s
            self._stop_s = stop_s if self._stop_s is None else max(self._stop_s, stop_s)
        elif pts is not None:
            self._stop_s = _NEVER_S

    def add(self, frame: AudioFrame) -> Iterator[Samples]:
        """The blocks that are complete now that `frame` has come: [c n]."""
        time_s = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
        if not self.rate:
            self.start_s, self.rate = time_s or Fraction(0), frame.sample_rate
        blocks = self._converted(frame)
        hole = self._hole(time_s)
        if self._held is not None:
            for length in _seconds(hole, self.rate):
                yield from self._put(np.zeros((len(self._held), length), dtype=np.float32))
        surplus = max(0, -hole)
        for block in blocks:
            yield from self._put(block[:, surplus:])
            surplus = max(0, surplus - block.shape[1])

    def rest(self) -> Iterator[Samples]:
        """The last block, without the encoder's padding."""
        if self._converter is not None:
            for block in _arrays(self._converter[1].resample(None)):
                yield from self._put(block)
        if self._held is not None:
            surplus = self._surplus()
            self._held = self._held[:, : max(0, self._held.shape[1] - surplus)]
            if self._held.size:
                yield self._held

    def _hole(self, time_s: Fraction | None) -> int:
        """Samples that are missing before a frame at `time_s`; below 0 for those that it repeats."""
        if time_s is None or time_s > self._latest_s:
            return 0
        late_s = time_s - self.start_s - Fraction(self.num_samples, self.rate)
        jitter_s = max(_JITTER_S, 2 * self._tick_s)
        return round(late_s * self.rate) if jitter_s < abs(late_s) <= _MOST_S else 0

    def _surplus(self) -> int:
        if self._stop_s is None:
            return 0
        surplus = self.num_samples - round((self._stop_s - self.start_s) * self.rate)
        slack = 0 if self._tick_s * self.rate <= 1 else round(2 * self._tick_s * self.rate)
        return surplus if surplus > slack else 0

    def _put(self, block: Samples) -> Iterator[Samples]:
        if not block.size:
            return
        if self._held is not None:
            yield self._held
        self._held = block
        self.num_samples += block.shape[1]

    def _converted(self, frame: AudioFrame) -> list[Samples]:
        """The frame as [c n] of the layout and rate with which the stream began, perhaps in several blocks."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        blocks: list[Samples] = []
        if self._converter is None or self._converter[0] != form:
            if self._converter is not None:
                blocks += _arrays(self._converter[1].resample(None))
            many = self._channels in _LAYOUTS and frame.layout.nb_channels > 2
            self.layout = self.layout or (_LAYOUTS[self._channels or 1] if many else frame.layout.name)
            options = _UNCLIPPED if self.layout != frame.layout.name else None
            resampler = AudioResampler(format="flt", layout=self.layout, rate=self.rate, options=options)
            self._converter = (form, resampler)
        return blocks + _arrays(self._converter[1].resample(frame))


def _seconds(samples: int, rate: int) -> Iterator[int]:
    """Lengths of at most a second that add up to `samples`."""
    for start in range(0, samples, rate):
        yield min(rate, samples - start)


def _arrays(frames: list[AudioFrame]) -> list[Samples]:
    """Frames of packed floats as [c n]. PyAV reads beyond the end of planar ones with eight channels."""
    return [
        np.ascontiguousarray(frame.to_ndarray().reshape(frame.samples, frame.layout.nb_channels).T, dtype=np.float32)
        for frame in frames
    ]
