"""What changes inside a stream, seen in its packets without decoding all of them.

A picture has its parameter sets (H.264, HEVC, MPEG-2) again with key frames; where they differ, that picture alone is
decoded. Sound in AAC (ADTS) and AC-3 has its rate and channels in the head of every packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from longtake.pipeline.media.source import codec_name

_MPEG_AUDIO = {"mp2", "mp2float", "mp3", "mp3float"}
_ONE_CHANNEL = 3
_CAPTIONED, _CAPTIONS = {"h264", "hevc", "mpeg2video"}, b"GA94"  # ATSC A/53, part 4, 6.2.3


@dataclass(frozen=True)
class Change:
    """A property that is another one from a moment on.

    Args:
        at_s: when, on the film's clock.
        what: in words.
        is_size: whether it is the size of the picture.
    """

    at_s: Fraction
    what: str
    is_size: bool = False

    def __str__(self) -> str:
        return f"at {float(self.at_s):.3f} s {self.what}"


class ChangeWatch:
    """Looks at packets as they pass by.

    Args:
        picture: the film's picture.
        start_s: when the film starts on the file's clock.
    """

    def __init__(self, picture: VideoStream, start_s: Fraction) -> None:
        self.changes: list[Change] = []
        self.has_captions = False
        self._may_have_captions = codec_name(picture) in _CAPTIONED
        self._picture, self._start_s = picture, start_s
        self._filter = _parameter_filter(picture)
        self._parameters: bytes | None = None
        self._looks: dict[str, object] = {}
        self._sounds: dict[int, tuple[int, ...]] = {}

    def look(self, packet: Packet[Any]) -> None:
        """Take note of a packet, which stays as it is."""
        if packet.stream_index != self._picture.index:
            self._listen(packet)
            return
        if self._may_have_captions and not self.has_captions:
            self.has_captions = _CAPTIONS in bytes(packet)
        if packet.is_keyframe and packet.pts is not None:
            parameters = _parameters(self._filter, packet) or self._parameters
            if parameters != self._parameters:
                self._parameters = parameters
                self._compare(packet)

    def _compare(self, packet: Packet[Any]) -> None:
        looks = next(_alone(self._picture, packet, self._parameters), None)
        if looks is None:
            return
        for name, value in looks.items():
            if self._looks.get(name, value) != value:
                what = f"its {name} changes from {self._looks[name]} to {value}"
                self.changes.append(Change(self._when(packet), what, name == "size"))
        self._looks = looks

    def _listen(self, packet: Packet[Any]) -> None:
        head = _sound_head(codec_name(packet.stream), bytes(packet)[:8])
        if head is None or packet.pts is None:
            return
        if self._sounds.setdefault(packet.stream_index, head) != head:
            self._sounds[packet.stream_index] = head
            what = f"the rate or the channels of audio stream {packet.stream_index} change; some players stop there"
            self.changes.append(Change(self._when(packet), what))

    def _when(self, packet: Packet[Any]) -> Fraction:
        at_s: Fraction = (packet.pts or 0) * packet.time_base - self._start_s
        return at_s


def _parameter_filter(stream: VideoStream) -> BitStreamFilterContext | None:
    try:
        return BitStreamFilterContext("extract_extradata", stream)
    except (ValueError, av.FFmpegError):  # a codec without parameter sets
        return None


def _parameters(filtering: BitStreamFilterContext | None, packet: Packet[Any]) -> bytes | None:
    """The parameter sets that come with a packet, inside it or next to it."""
    if packet.has_sidedata("new_extradata"):
        return bytes(packet.get_sidedata("new_extradata"))
    if filtering is None:
        return None
    try:
        for out in filtering.filter(_copied(packet)):
            if out.has_sidedata("new_extradata"):
                return bytes(out.get_sidedata("new_extradata"))
    except av.FFmpegError:  # a damaged packet, which decoding finds
        filtering.flush()
    return None


def _alone(stream: VideoStream, packet: Packet[Any], parameters: bytes | None) -> Iterator[dict[str, object]]:
    """How the pictures of a key frame look, decoded without any other."""
    decoder = av.CodecContext.create(stream.codec_context.codec, "r")
    assert isinstance(decoder, VideoCodecContext), "the decoder of a picture"
    is_beside = packet.has_sidedata("new_extradata")
    decoder.extradata = parameters if is_beside else stream.codec_context.extradata
    try:
        for each in (_copied(packet), None):
            for frame in decoder.decode(each):
                yield _looks(frame, decoder)
    except av.FFmpegError:
        return


def _copied(packet: Packet[Any]) -> Packet[Any]:
    copy: Packet[Any] = Packet(bytes(packet))
    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
    copy.is_keyframe = True
    return copy


def _looks(frame: VideoFrame, decoder: VideoCodecContext) -> dict[str, object]:
    return {
        "size": f"{frame.width}x{frame.height}",
        "pixel format": frame.format.name,
        "colour": (int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace)),
        "interlacing": "fields" if frame.interlaced_frame else "whole pictures",
        "pixel aspect": str(decoder.sample_aspect_ratio or 1),
    }


def _sound_head(codec: str, head: bytes) -> tuple[int, ...] | None:
    """What the head of a packet says about rate and channels.

    ADTS (ISO/IEC 13818-7, 6.2), AC-3 (ATSC A/52, 5.3), MPEG audio (ISO/IEC 11172-3, 2.4.1.3).
    """
    if codec == "aac" and len(head) > 3 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return head[2] & 0x3D, head[3] >> 6
    if codec == "ac3" and len(head) > 6 and head[:2] == b"\x0b\x77":
        return head[4] >> 6, head[6] >> 5
    if codec in _MPEG_AUDIO and len(head) > 3 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return head[1] & 0x18, head[2] & 0x0C, head[3] >> 6 == _ONE_CHANNEL
    return None


def is_sound_watched(stream: Stream) -> bool:
    """Whether the packets of a stream of sound say what changes."""
    return stream.type == "audio" and codec_name(stream) in {"aac", "ac3"} | _MPEG_AUDIO
