"""Reading any range of the footage's pictures, with the same bits wherever reading begins."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import av
import torch
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.colour import to_rgb
from longtake.pipeline.footage.source import only, opened
from longtake.pipeline.footage.values import Footage

# A decoder may return pictures slightly out of order. One that is later than this is lost.
_MOST_AHEAD = 32


def read_pictures(footage: Footage, frames: range) -> Iterator[Tensor]:
    """Pictures `frames` of `footage`, one after the other: float32 [3 h w], RGB as it is coded, 0..1.

    The full coded size, not rotated, by the source's own matrix and range.

    Raises:
        MediaError: there are no such pictures, one does not decode or has another size, or the file has changed.
    """
    if frames.step != 1 or not 0 <= frames.start <= frames.stop <= footage.num_frames:
        raise MediaError(f"{footage.url} has pictures 0..{footage.num_frames - 1}; asked for {frames}")
    next_frame = frames.start
    for start in _starts(footage, frames.start):
        for frame in _decoded(footage, start, range(next_frame, frames.stop)):
            _check(footage, next_frame, frame)
            yield torch.from_numpy(to_rgb(frame, footage.colour))
            next_frame += 1
        if next_frame > frames.start:
            break
    if next_frame < frames.stop:
        raise MediaError(
            f"{footage.url}: picture {next_frame} of {footage.num_frames} does not decode; the file is damaged there"
        )


def _starts(footage: Footage, frame: int) -> Iterator[int]:
    """Key frames to begin at, the nearest first. Earlier ones serve streams whose key frames are not complete.

    A gradual refresh is such a stream. The last one is picture 0, from the file's first packet on.
    """
    nearest = bisect_right(footage.keyframes, frame)
    yield from (key for key in reversed(footage.keyframes[:nearest]) if key)
    yield 0


def _decoded(footage: Footage, start: int, frames: range) -> Iterator[VideoFrame]:
    """Pictures `frames` in order, decoded from key frame `start` on; ends early where one is lost."""
    number_of = {footage.pts[number]: number for number in frames}
    ahead: dict[int, VideoFrame] = {}
    due = iter(frames)
    awaited = next(due, None)
    with opened(footage.url) as container:
        stream = _stream(container, footage)
        stream.codec_context.thread_count = 1
        only(container, stream)
        for packet in _packets(container, stream, footage, start):
            for frame in _frames(packet, footage):
                if frame.pts in number_of:
                    ahead[number_of[frame.pts]] = frame
            while awaited in ahead:
                yield ahead.pop(awaited)
                awaited = next(due, None)
            if awaited is None or len(ahead) > _MOST_AHEAD:
                return


def _stream(container: InputContainer, footage: Footage) -> VideoStream:
    streams = {stream.index: stream for stream in container.streams.video}
    if footage.stream_index not in streams:
        raise MediaError(f"{footage.url} has changed since it was opened; open it again")
    return streams[footage.stream_index]


def _packets(container: InputContainer, stream: VideoStream, footage: Footage, start: int) -> Iterator[Packet[Any]]:
    """The picture's packets from key frame `start` on."""
    if start:
        container.seek(footage.pts[start], stream=stream)
    waiting = start > 0
    for packet in container.demux(stream):
        waiting &= packet.pts != footage.pts[start]
        if not waiting:
            yield packet


def _frames(packet: Packet[Any], footage: Footage) -> list[VideoFrame]:
    try:
        return packet.decode()
    except av.FFmpegError as error:
        where = f"picture {footage.pts.index(packet.pts)}" if packet.pts in footage.pts else "the end"
        raise MediaError(f"{footage.url}: {where} is damaged and does not decode ({error.strerror})") from error


def _check(footage: Footage, number: int, frame: VideoFrame) -> None:
    if (frame.width, frame.height) != (footage.width, footage.height):
        raise MediaError(
            f"{footage.url}: picture {number} has {frame.width}x{frame.height} pixels, the first"
            f" {footage.width}x{footage.height}; cut the film where its size changes"
        )
    if frame.is_corrupt:
        raise MediaError(f"{footage.url}: picture {number} is damaged; fetch the file again")
