"""Reading films: pictures, sound and their timestamps, from any fsspec URL.

Shapes: f frames, h height, w width, c channels, n samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray
from torch import Tensor

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.ffmpeg import EXACT_SCALER, FULL
from longtake.pipeline.media.matroska import UNCROPPED, Crop, crop_of
from longtake.pipeline.media.sound import sound_stream, stream_sound
from longtake.pipeline.media.source import check_decodable, opened, picture_stream
from longtake.pipeline.media.tiles import stitched, tiles_of
from longtake.pipeline.media.timeline import Timeline, common_start_s, timed_streams
from longtake.pipeline.media.times import Clock, intact, picture_times, rate_of
from longtake.pipeline.media.turn import Turn

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
        num_packets: pictures that are presented; of sound, packets that are not all priming.
        start_s: when the first is presented, from the film's start.
        stop_s: when the last one ends.
        header_s: the duration that the container's header claims; None if it claims nothing.
        monotone: whether each is presented later than the one before, without a repair of the times.
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
        size: bytes of the file.
    """

    video: StreamCount
    audio: StreamCount | None
    metadata: dict[str, str]
    fps: Fraction
    size: int


def count_film(url: str) -> FilmCount:
    """Count the pictures that a film presents, and its packets of sound; MediaError if it cannot be read."""
    times = picture_times(url, None)
    with opened(url, times.size) as container:
        picture = picture_stream(container, url)
        tick_s = picture.time_base or Fraction(1)
        first_s = times.pts[0] * tick_s - times.start_s
        video = StreamCount(
            num_packets=len(times.pts),
            start_s=first_s,
            stop_s=first_s + (times.pts[-1] - times.pts[0] + times.durations[-1]) * tick_s,
            header_s=None if picture.duration is None else picture.duration * tick_s,
            monotone=not (times.in_order or times.restarts),
        )
        fps = picture.guessed_rate or Fraction(1)
        sound = sound_stream(container)
        audio = None if sound is None else _count_sound(container, sound, times.start_s)
        return FilmCount(video, audio, dict(container.metadata), fps, times.size)


def _count_sound(container: InputContainer, stream: AudioStream, common_s: Fraction) -> StreamCount | None:
    """The count of a stream of sound; None if no packet has a time."""
    tick_s = stream.time_base or Fraction(1)
    num_packets, start, stop, monotone = 0, 0, 0, True
    latest: int | None = None
    for packet in Timeline(container).packets([stream]):
        if not packet.size or packet.pts is None:
            continue
        end = packet.pts + (packet.duration or 0)
        monotone &= latest is None or packet.pts > latest
        if not packet.is_discard:
            start, stop = (packet.pts, end) if not num_packets else (min(start, packet.pts), max(stop, end))
            num_packets += 1
        latest = packet.pts
    if not num_packets:
        return None
    return StreamCount(
        num_packets=num_packets,
        start_s=max(start * tick_s - common_s, Fraction(0)),
        stop_s=stop * tick_s - common_s,
        header_s=None if stream.duration is None else stream.duration * tick_s,
        monotone=monotone,
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
    """Some frames that follow each other.

    Args:
        times_s: when each is shown, from the film's start, exact.
        frames: uint8 [f h w 3], RGB, full range, upright.
        pixel_aspect: the width of a pixel by its height.
    """

    times_s: tuple[Fraction, ...]
    frames: NDArray[np.uint8]
    pixel_aspect: Fraction = Fraction(1)


def stream_frames(
    url: str, block: int = 32, longest_side: int | None = None, size: int | None = None
) -> Iterator[FrameBlock]:
    """Decode a film's pictures a few at a time; MediaError if it cannot be read, or holds none.

    Pictures are upright. One of another size than the first is scaled to it, as players do.

    Args:
        block: frames to hand out together; the last block is shorter.
        longest_side: pictures that are larger are reduced to it, by the mean of the area under every pixel.
        size: bytes of the file to read; None for all of them.
    """
    with opened(url, size) as container:
        stream = picture_stream(container, url)
        tick_s, start_s = stream.time_base or Fraction(1), common_start_s(container)
        clock = Clock(tick_s, rate_of(stream), start_s)
        pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        crop = crop_of(url, container.format.name, stream.index)
        times: list[Fraction] = []
        frames: list[NDArray[np.uint8]] = []
        shape: tuple[int, ...] | None = None
        for packet in Timeline(container).packets([stream]):
            for frame in intact(packet, url, tolerant=False):
                turned = Turn.of(frame)
                rgb = turned.upright(to_rgb(_cropped(frame, crop), longest_side, turned.before(shape)))
                shape = rgb.shape[:2]
                times.append(clock.time(frame.pts) * tick_s - start_s)
                frames.append(rgb)
                if len(frames) == block:
                    yield FrameBlock(tuple(times), np.stack(frames), turned.aspect(pixel_aspect))
                    times, frames = [], []
        if frames:
            yield FrameBlock(tuple(times), np.stack(frames), turned.aspect(pixel_aspect))
        elif shape is None:
            raise MediaError(f"{url} holds no picture that decodes; the file is damaged or empty")


def _cropped(frame: VideoFrame, crop: Crop) -> VideoFrame:
    if crop == UNCROPPED:
        return frame
    shown = crop.of(to_rgb(frame).transpose(2, 0, 1)).transpose(1, 2, 0)
    return VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")


def read_still(url: str) -> FrameBlock:
    """The picture at `url`, upright; of a film, its first. Raises `MediaError` if it holds none."""
    with opened(url) as container:
        if tiles_of(container.streams.video):
            picture = stitched(url, container, to_rgb)
            return FrameBlock((Fraction(0),), picture[np.newaxis])
    return next(stream_frames(url, block=1))


def reading(url: str) -> str:
    """How a film, a sound or a picture is read, if versions before 2026-12 read it otherwise; else empty.

    Those knew no clock but one that begins at 0, no holes in the sound, no surround mix, no turned pictures and no
    pixels that are not square.
    """
    with opened(url) as container:
        sound, pictures = sound_stream(container), container.streams.video
        moving = {stream.index for stream in timed_streams(container)}
        is_first = sound is None or sound.index == container.streams.audio[0].index
        if sound is not None:
            check_decodable(sound, url)
        is_fine = sound is None or (sound.time_base or 1) * sound.rate <= 1
        is_plain = common_start_s(container) == 0 and is_first and is_fine
        is_plain &= sound is None or sound.layout.nb_channels <= 2
        is_film = any(one.index in moving for one in pictures) and not tiles_of(pictures)
        is_plain &= not tiles_of(pictures)
        stream = picture_stream(container, url) if is_film else None
        is_plain &= stream is None or crop_of(url, container.format.name, stream.index) == UNCROPPED
        is_plain &= stream is None or (stream.index, stream.sample_aspect_ratio or 1) == (pictures[0].index, 1)
        due: int | None = None
        turned = Turn()
        has_turned = stream is None
        for packet in Timeline(container).packets(timed_streams(container)):
            if sound is not None and packet.stream_index == sound.index and packet.pts is not None:
                is_plain &= due is None or abs(packet.pts - due) * packet.time_base <= Fraction(1, 100)
                due = packet.pts + (packet.duration or 0)
            elif stream is not None and packet.stream_index == stream.index:
                is_plain &= not packet.is_discard
                if not has_turned and (frames := intact(packet, url, tolerant=True)):
                    turned, has_turned = Turn.of(frames[0]), True
        is_plain &= turned == Turn()
    return "" if is_plain else ", read by its timestamps and as it is shown"


def to_rgb(
    frame: VideoFrame, longest_side: int | None = None, shape: tuple[int, ...] | None = None
) -> NDArray[np.uint8]:
    """A decoded frame as uint8 [h w 3], RGB, full range.

    Args:
        longest_side: reduce it if a side is longer than that many pixels; None keeps its size.
        shape: height and width to scale to; None for those that follow from `longest_side`.
    """
    # Footage without tags: HD is BT.709, anything smaller BT.601.
    untagged = 1 if frame.height >= _HD_HEIGHT else 5
    matrix = untagged if frame.colorspace == _UNSPECIFIED else frame.colorspace
    longest = max(frame.width, frame.height)
    scale = longest_side / longest if longest_side is not None and longest > longest_side else 1.0
    height, width = shape or (max(1, round(frame.height * scale)), max(1, round(frame.width * scale)))
    rgb = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=matrix,
        dst_color_range=FULL,
        interpolation=_AREA_SCALER if (height, width) < (frame.height, frame.width) else EXACT_SCALER,
        threads=1,
    ).to_ndarray()
    return rgb.astype(np.uint8, copy=False)
