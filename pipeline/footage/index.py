"""The index of a piece of footage: one pass over its packets, and one decoded picture for what only pictures hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from struct import unpack_from
from typing import Any

import av
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.colour import check_matrix, layout_of
from longtake.pipeline.footage.source import bytes_of, only, opened
from longtake.pipeline.footage.values import Chapter, Colour, Footage, LightLevel, MasteringDisplay, OtherStream
from longtake.pipeline.footage.whole import check_whole

_END_BYTES = 1 << 16
_NOT_CARRIED = {
    SideDataType.DOVI_METADATA: "Dolby Vision's metadata",
    SideDataType.DYNAMIC_HDR_PLUS: "HDR10+'s dynamic metadata",
    SideDataType.A53_CC: "the captions inside the picture (CTA-708)",
    SideDataType.ICC_PROFILE: "the ICC profile",
    SideDataType.SPHERICAL: "the tag for spherical video",
    SideDataType.STEREO3D: "the tag for stereo video",
}


@dataclass(frozen=True)
class _Times:
    """The pictures of a stream, in display order."""

    pts: tuple[int, ...]
    durations: tuple[int, ...]
    keyframes: tuple[int, ...]
    digest: str


def open_footage(url: str) -> Footage:
    """Index the footage at `url`: every picture's time, without decoding more than one.

    Raises:
        MediaError: it is no film, is cut off, holds no picture, or pictures without times of their own.
    """
    with bytes_of(url) as file:
        check_whole(file, url)
    with opened(url) as container:
        stream = picture_stream(container, url)
        times = _times(container, stream, url)
    with opened(url) as container:
        stream = picture_stream(container, url)
        picture = _first_picture(container, stream, times.pts[0], url)
        return _footage(url, container, stream, times, picture)


def picture_stream(container: InputContainer, url: str) -> VideoStream:
    """The stream that is the film: the first that is no cover, or the one that is marked as the default."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(f"{url} holds no moving picture, only {kinds}; give a film")
    return min(streams, key=lambda stream: not stream.disposition & Disposition.default)


def _times(container: InputContainer, stream: VideoStream, url: str) -> _Times:
    only(container, stream)
    content = sha256()
    packets: list[tuple[int, int, bool]] = []
    for number, packet in enumerate(container.demux(stream)):
        if not packet.size:
            continue
        content.update(bytes(packet))
        if packet.is_corrupt:
            raise MediaError(f"{url} is cut off or damaged at packet {number} of its picture; fetch it again")
        if packet.pts is None:
            raise MediaError(f"{url} does not say when picture {number} is shown; write it into a .mkv or .mp4 first")
        if not packet.is_discard:
            packets.append((packet.pts, packet.duration or 0, packet.is_keyframe))
    if not packets:
        raise MediaError(f"{url} holds no picture; it is empty or cut off")
    if stream.frames > len(packets):
        raise MediaError(f"{url} promises {stream.frames} pictures and holds {len(packets)}: it is cut off")
    packets.sort()
    pts = tuple(start for start, _, _ in packets)
    for number, (one, other) in enumerate(pairwise(pts)):
        if one == other:
            raise MediaError(f"{url} shows pictures {number} and {number + 1} at once, at tick {one}; repair its times")
    durations = _durations(pts, packets[-1][1])
    keyframes = tuple(number for number, (_, _, key) in enumerate(packets) if key)
    content.update(repr((pts, durations, keyframes)).encode())
    content.update(_ends(url))
    return _Times(pts, durations, keyframes, content.hexdigest())


def _durations(pts: Sequence[int], last: int) -> tuple[int, ...]:
    """Ticks from each picture to the next; the last lasts as long as it says, or as the one before it."""
    steps = [after - before for before, after in pairwise(pts)]
    return (*steps, last or (steps[-1] if steps else 1))


def _ends(url: str) -> bytes:
    with bytes_of(url) as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(_END_BYTES)
        file.seek(max(0, size - _END_BYTES))
        return b"".join([size.to_bytes(8, "big"), head, file.read(_END_BYTES)])


def _first_picture(container: InputContainer, stream: VideoStream, first: int, url: str) -> VideoFrame:
    only(container, stream)
    stream.codec_context.thread_count = 1
    try:
        frame = next(container.decode(stream), None)
    except av.FFmpegError as error:
        raise MediaError(f"{url}: its first picture is damaged and does not decode ({error.strerror})") from error
    if frame is None:
        raise MediaError(f"{url} holds no picture that decodes; it is damaged, or its codec is unknown here")
    if frame.pts != first:
        raise MediaError(f"{url} begins with pictures that need earlier ones to decode; cut it at a key frame")
    return frame


def _footage(url: str, container: InputContainer, stream: VideoStream, times: _Times, picture: VideoFrame) -> Footage:
    colour = Colour(picture.color_primaries, picture.color_trc, picture.colorspace, picture.color_range)
    layout = layout_of(picture.format.name)
    check_matrix(colour, layout)
    matrix = _side_data(picture, SideDataType.DISPLAYMATRIX)
    return Footage(
        url=url,
        fingerprint=times.digest,
        container=container.format.name,
        stream_index=stream.index,
        codec=stream.codec_context.codec.canonical_name,
        width=picture.width,
        height=picture.height,
        pix_fmt=picture.format.name,
        bit_depth=layout.depth,
        colour=colour,
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        rotation=picture.rotation,
        display_matrix=None if matrix is None else unpack_from("=9i", matrix),
        interlaced=picture.interlaced_frame,
        time_base=stream.time_base or Fraction(1),
        pts=times.pts,
        durations=times.durations,
        keyframes=times.keyframes,
        mastering=_mastering(_side_data(picture, SideDataType.MASTERING_DISPLAY_METADATA)),
        light_level=_light_level(_side_data(picture, SideDataType.CONTENT_LIGHT_LEVEL)),
        others=tuple(_other(other) for other in container.streams if other.index != stream.index),
        chapters=tuple(_chapter(chapter) for chapter in container.chapters()),
        metadata=dict(container.metadata),
        stream_metadata=dict(stream.metadata),
        disposition=int(stream.disposition),
        frame_rate=_steady_rate(stream, times),
        notes=tuple(
            f"{name} is not carried over"
            for kind, name in _NOT_CARRIED.items()
            if _side_data(picture, kind) is not None
        ),
    )


def _side_data(picture: VideoFrame, kind: SideDataType) -> bytes | None:
    held: Any = picture.side_data
    return bytes(held[kind]) if kind in held else None


def _mastering(data: bytes | None) -> MasteringDisplay | None:
    """FFmpeg's AVMasteringDisplayMetadata: eight fractions for colours, two for brightness, two flags."""
    if data is None:
        return None
    numbers = unpack_from("=22i", data)
    values = [Fraction(numbers[at], numbers[at + 1] or 1) for at in range(0, 20, 2)]
    has_colours, has_luminance = numbers[20:]
    return MasteringDisplay(
        primaries=tuple((values[at], values[at + 1]) for at in (0, 2, 4)) if has_colours else None,
        white_point=(values[6], values[7]) if has_colours else None,
        luminance=(values[8], values[9]) if has_luminance else None,
    )


def _light_level(data: bytes | None) -> LightLevel | None:
    return None if data is None else LightLevel(*unpack_from("=2I", data))


def _chapter(chapter: Any) -> Chapter:
    return Chapter(chapter["start"], chapter["end"], chapter["time_base"] or Fraction(1), dict(chapter["metadata"]))


def _other(stream: Stream) -> OtherStream:
    is_data = stream.type == "data"
    return OtherStream(
        index=stream.index,
        kind=stream.type,
        codec=stream.name or "unknown",
        language=stream.language or "",
        title=stream.metadata.get("title", stream.metadata.get("filename", "")),
        time_base=stream.time_base or None,
        is_chapters=is_data and stream.discard == Discard.all,
        is_timecode=is_data and stream.discard != Discard.all and "timecode" in stream.metadata,
    )


def _steady_rate(stream: VideoStream, times: _Times) -> Fraction | None:
    """The rate that every picture keeps, exactly or, in coarse ticks, to within one; None if there is no such rate."""
    tick_s = stream.time_base or Fraction(1)
    if len(set(times.durations)) == 1:
        return 1 / (times.durations[0] * tick_s)
    for rate in (stream.guessed_rate, stream.base_rate, stream.average_rate):
        if rate and all(abs(ticks - 1 / (rate * tick_s)) <= 1 for ticks in times.durations):
            return rate
    return None
