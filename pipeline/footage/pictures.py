"""Reading any range of the footage's pictures, with the same bits wherever reading begins."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import av
import torch
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.alpha import alpha_decoder
from longtake.pipeline.footage.colour import alpha_of, to_rgb
from longtake.pipeline.footage.deinterlace import MATCHING_REACH, REACH, deinterlaced
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.media.source import only, opened
from longtake.pipeline.media.timeline import Timeline
from longtake.pipeline.media.times import intact

# A decoder may return pictures slightly out of order. One that is later than this is lost.
_MOST_AHEAD = 32


def read_pictures(footage: Footage, frames: range, *, alpha: bool = False) -> Iterator[Tensor]:
    """Pictures `frames` of `footage`, one after the other: float32 [3 h w], RGB as it is coded, 0..1.

    The full coded size, not rotated, by the source's own matrix and range.

    Args:
        alpha: transparency comes too, as a fourth channel; only for footage that has it.

    Raises:
        MediaError: there are no such pictures, one does not decode or has another size, or the file has changed.
    """
    if frames.step != 1 or not 0 <= frames.start <= frames.stop <= footage.num_frames:
        raise MediaError(f"{footage.url} has pictures 0..{footage.num_frames - 1}; asked for {frames}")
    sources = [footage.coded_number(number) for number in frames]
    shown = 0
    for start in starts(footage, _needed(footage, sources)[0] if sources else 0):
        for number, frame in _pictures(footage, start, sources[shown:]):
            picture: Tensor | None = None
            while shown < len(sources) and sources[shown] == number:
                picture = _picture(footage, frame, alpha=alpha) if picture is None else picture
                yield picture
                shown += 1
        if shown:
            break
    if shown < len(sources):
        raise MediaError(
            f"{footage.url}: picture {frames.start + shown} of {footage.num_frames} does not decode; the file is"
            " damaged there, or has changed: add --damaged skip or --damaged hold"
        )


def _picture(footage: Footage, frame: VideoFrame, *, alpha: bool) -> Tensor:
    rgb = torch.from_numpy(to_rgb(frame, footage.colour))
    picture = torch.cat([rgb, torch.from_numpy(alpha_of(frame))]) if alpha else rgb
    shown: Tensor = footage.crop.of(picture).contiguous()
    return shown


def _needed(footage: Footage, sources: Sequence[int]) -> list[int]:
    """The pictures to decode for `sources`: those, and the neighbours that a filter looks at."""
    wanted = sorted(set(sources))
    if not footage.deinterlaced:
        return wanted
    lacks_some = footage.shows and footage.pulldown is None
    intact = sorted(set(footage.shows)) if lacks_some else range(len(footage.coded_pts))
    first, last = bisect_left(intact, wanted[0]), bisect_left(intact, wanted[-1])
    reach = REACH if footage.pulldown is None else MATCHING_REACH
    return list(intact[max(0, first - reach) : last + 1 + reach])


def _pictures(footage: Footage, start: int, sources: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Pictures in order, each with its number, among them `sources`."""
    pictures = _checked(footage, _decoded(footage, start, _needed(footage, sources)))
    if not footage.deinterlaced:
        return pictures
    return deinterlaced(pictures, footage.pulldown.order if footage.pulldown else None)


def _checked(footage: Footage, pictures: Iterable[tuple[int, VideoFrame]]) -> Iterator[tuple[int, VideoFrame]]:
    for number, frame in pictures:
        check_frame(footage, number, frame)
        yield number, frame


def starts(footage: Footage, frame: int) -> Iterator[int]:
    """Key frames to begin at, the nearest first. Earlier ones serve streams whose key frames are not complete.

    A gradual refresh is such a stream. The last one is picture 0, from the file's first packet on.
    """
    nearest = bisect_right(footage.keyframes, frame)
    yield from (key for key in reversed(footage.keyframes[:nearest]) if key)
    yield 0


def _decoded(footage: Footage, start: int, frames: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Pictures `frames` in order, decoded from key frame `start` on; ends early where one is lost."""
    wanted, ahead = set(frames), dict[int, VideoFrame]()
    due = iter(frames)
    awaited = next(due, None)
    for number, frame in frames_from(footage, start, threads=1):
        if number in wanted:
            ahead[number] = frame
        while awaited is not None and awaited in ahead:
            yield awaited, ahead.pop(awaited)
            awaited = next(due, None)
        if awaited is None or len(ahead) > _MOST_AHEAD:
            return


def frames_from(footage: Footage, start: int, threads: int) -> Iterator[tuple[int, VideoFrame]]:
    """The decoded pictures from key frame `start` on, with their numbers, nearly in order.

    Args:
        threads: of the decoder; 0 for one on each core.
    """
    with opened(footage.url, footage.size) as container:
        stream = _stream(container, footage)
        stream.codec_context.thread_count = threads
        if threads != 1:
            stream.codec_context.thread_type = "AUTO"  # pictures are the same with any number of threads
        decoder = alpha_decoder(stream)
        count = 0
        for packet in _packets(container, stream, footage, start):
            at = _number(footage, packet.pts)
            where = "" if at is None or footage.in_order else f"picture {at}"
            tolerant = footage.damaged != "stop"
            for frame in intact(packet, footage.url, tolerant=tolerant, where=where, decoder=decoder):
                number = count if footage.in_order else _number(footage, frame.pts)
                count += 1
                if number is not None:
                    yield number, frame


def _number(footage: Footage, pts: int | None) -> int | None:
    """The number of the picture at tick `pts`; None if the film shows none then."""
    if pts is None:
        return None
    times = footage.coded_pts
    number = bisect_left(times, pts)
    return number if number < len(times) and times[number] == pts else None


def _stream(container: InputContainer, footage: Footage) -> VideoStream:
    streams = {stream.index: stream for stream in container.streams.video}
    if footage.stream_index not in streams:
        raise MediaError(f"{footage.url} has changed since it was opened; open it again")
    return streams[footage.stream_index]


def _packets(container: InputContainer, stream: VideoStream, footage: Footage, start: int) -> Iterator[Packet[Any]]:
    """The picture's packets from key frame `start` on; from the file's first one where its format cannot seek."""
    packets: Iterator[Packet[Any]] | None = None
    if start and not footage.restarts:
        with suppress(av.FFmpegError):
            container.seek(footage.coded_pts[start], stream=stream)
            only(container, stream)
            packets = container.demux(stream)
    if packets is None:
        packets = Timeline(container).packets([stream])
    waiting = start > 0
    for packet in packets:
        waiting &= packet.pts != footage.coded_pts[start]
        if not waiting:
            yield packet


def check_frame(footage: Footage, number: int, frame: VideoFrame) -> None:
    """Raise `MediaError` for a picture that is not like the first, or is damaged."""
    coded = (footage.width + footage.crop.width, footage.height + footage.crop.height)
    if (frame.width, frame.height) != coded:
        raise MediaError(
            f"{footage.url}: picture {number} has {frame.width}x{frame.height} pixels, the first"
            f" {coded[0]}x{coded[1]}; cut the film where its size changes"
        )
    if frame.is_corrupt:
        raise MediaError(
            f"{footage.url}: picture {number} is damaged; fetch the file again, or add --damaged skip or --damaged hold"
        )
