"""Encoding footage segment by segment, each with its own encoder: its bytes depend on its pictures alone.

No B-frames, a fixed quantiser and a fixed number of threads: decode order is display order, and segments that were made
on any machine, in any order, can follow each other in one track.

Shapes: f frames, h height, w width, of the enlarged pictures.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import torch
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from torch import Tensor

from longtake.pipeline.errors import MediaError
from longtake.pipeline.footage.codecs import FootageEncoding, target_of
from longtake.pipeline.footage.colour import from_rgb
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.media.ffmpeg import reported, same_scheduling

_MAGIC = b"LTSEG1\0\0"
_HEAD = struct.Struct("<8sQQIIQQ")  # magic, frames, size, bytes of extradata, packets
_PACKET = struct.Struct("<qq?Q")


@dataclass(frozen=True)
class FootagePacket:
    """One encoded picture; `pts` and `duration` count the ticks of the footage's time base."""

    pts: int
    duration: int
    keyframe: bool
    data: bytes


@dataclass(frozen=True)
class FootageSegment:
    """Pictures `frames` of the footage, enlarged to `width` x `height` and encoded; the first packet is a key frame."""

    frames: range
    width: int
    height: int
    extradata: bytes
    packets: tuple[FootagePacket, ...]

    def to_bytes(self) -> bytes:
        """Everything in one piece, for a journal."""
        sizes = (self.frames.start, self.frames.stop, self.width, self.height, len(self.extradata), len(self.packets))
        heads = [_PACKET.pack(one.pts, one.duration, one.keyframe, len(one.data)) for one in self.packets]
        return b"".join([_HEAD.pack(_MAGIC, *sizes), self.extradata, *heads, *(one.data for one in self.packets)])

    @staticmethod
    def from_bytes(data: bytes) -> "FootageSegment":
        """What `to_bytes` wrote; MediaError if it is anything else."""
        try:
            magic, start, stop, width, height, num_extra, num_packets = _HEAD.unpack_from(data)
            heads_at = _HEAD.size + num_extra
            heads = [_PACKET.unpack_from(data, heads_at + at * _PACKET.size) for at in range(num_packets)]
        except struct.error as error:
            raise MediaError(f"a segment of {len(data)} bytes is cut off; make it again") from error
        at = heads_at + num_packets * _PACKET.size
        if magic != _MAGIC or at + sum(head[3] for head in heads) != len(data):
            raise MediaError(f"{len(data)} bytes are no segment, or one that is damaged; make it again")
        packets = []
        for pts, duration, keyframe, size in heads:
            packets.append(FootagePacket(pts, duration, keyframe, data[at : at + size]))
            at += size
        return FootageSegment(range(start, stop), width, height, data[_HEAD.size : heads_at], tuple(packets))


class FootageSegmentEncoder:
    """Encodes pictures `frames` of `footage`, enlarged `scale` times, as one segment.

    Depth, chroma layout, colour tags, matrix, range and pixel shape are the source's, as far as the codec can;
    `check_output` says what it cannot.

    Args:
        footage: where the pictures come from.
        scale: by how much they were enlarged.
        encoding: codec, quality and threads.
        frames: numbers of the pictures to come, at least one.

    Raises:
        MediaError: the codec is not known or cannot hold pictures of that size.
    """

    def __init__(self, footage: Footage, scale: int, encoding: FootageEncoding, frames: range) -> None:
        if frames.step != 1 or not 0 <= frames.start < frames.stop <= footage.num_frames:
            raise MediaError(f"a segment of pictures {frames} cannot be; there are 0..{footage.num_frames - 1}")
        self._footage, self._frames = footage, frames
        self._width, self._height = footage.width * scale, footage.height * scale
        self._target = target_of(footage, encoding)
        self._target.check_size(self._width, self._height)
        self._matrix = self._target.matrix(self._height)
        self._packets: list[Packet[Any]] = []
        self._num_added = 0
        with reported(f"opening {encoding.codec} for {self._width}x{self._height} pictures"):
            self._encoder = self._opened(encoding)

    def add(self, pictures: Tensor) -> None:
        """Encode the next pictures: float32 [f 3 h w], 0..1, RGB as `read_pictures` gives it.

        A codec that keeps transparency takes [f 4 h w] too; [f 3 h w] is opaque.
        """
        if self._target.layout.alpha and pictures.ndim == 4 and pictures.shape[1] == 3:
            pictures = torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1)
        channels = 4 if self._target.layout.alpha else 3
        if pictures.ndim != 4 or pictures.shape[1:] != (channels, self._height, self._width):
            raise MediaError(
                f"pictures of shape {list(pictures.shape)} do not fit a segment of"
                f" [f {channels} {self._height} {self._width}]"
            )
        if self._num_added + len(pictures) > len(self._frames):
            raise MediaError(f"segment {self._frames} got {self._num_added + len(pictures)} pictures")
        with reported(f"encoding pictures {self._frames.start}..{self._frames.stop - 1}"):
            for rgb in pictures.detach().float().cpu().numpy():
                frame = from_rgb(rgb, self._target.colour, self._target.layout, self._matrix)
                frame.pts, frame.time_base = self._num_added, self._encoder.time_base
                frame.colorspace, frame.color_range = self._encoder.colorspace, self._encoder.color_range
                frame.color_primaries, frame.color_trc = self._encoder.color_primaries, self._encoder.color_trc
                self._packets += self._encoder.encode(frame)
                self._num_added += 1

    def finish(self) -> FootageSegment:
        """The segment; MediaError unless every picture was added and came out as one packet, in order."""
        if self._num_added != len(self._frames):
            raise MediaError(f"segment {self._frames} got {self._num_added} of {len(self._frames)} pictures")
        with reported(f"encoding pictures {self._frames.start}..{self._frames.stop - 1}"):
            self._packets += self._encoder.encode(None)
            extradata = bytes(self._encoder.extradata or b"")
        if [packet.pts for packet in self._packets] != list(range(len(self._frames))):
            raise MediaError(f"the encoder gave packets {[one.pts for one in self._packets]} for {len(self._frames)}")
        if not self._packets[0].is_keyframe:
            raise MediaError(f"the encoder did not begin segment {self._frames} with a key frame")
        packets = tuple(
            FootagePacket(
                self._footage.pts[number], self._footage.durations[number], bool(packet.is_keyframe), bytes(packet)
            )
            for number, packet in zip(self._frames, self._packets, strict=True)
        )
        return FootageSegment(self._frames, self._width, self._height, extradata, packets)

    def _opened(self, encoding: FootageEncoding) -> VideoCodecContext:
        footage, target = self._footage, self._target
        encoder = av.CodecContext.create(target.encoder, "w")
        if not isinstance(encoder, VideoCodecContext):
            raise MediaError(f"{target.encoder} encodes no pictures")
        encoder.width, encoder.height, encoder.pix_fmt = self._width, self._height, target.pix_fmt
        encoder.framerate = footage.encoded_rate
        encoder.time_base = 1 / encoder.framerate
        encoder.thread_count = encoding.threads
        encoder.flags |= Flags.global_header
        encoder.sample_aspect_ratio = footage.sample_aspect_ratio or Fraction(0)
        encoder.color_primaries, encoder.color_trc = target.colour.primaries, target.colour.transfer
        encoder.colorspace, encoder.color_range = target.colour.matrix, target.colour.range
        encoder.options = target.options(encoding)
        with same_scheduling():
            encoder.open()
        return encoder
