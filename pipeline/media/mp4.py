"""MP4 from encoded packets: a whole film, or independent fragments of it.

Nothing is encoded here, so a reader demuxes the same packets, bit for bit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from math import lcm
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.stream import Stream

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.ffmpeg import reported
from longtake.pipeline.values import VideoFormat

_MAX_TIMESCALE = 2**31 - 1
# `frag_discont` makes a fragment carry the absolute time of its first packet; without `delay_moov` FFmpeg would shift
# that time to 0 again.
_FRAGMENT_FLAGS = "frag_custom+empty_moov+default_base_moof+delay_moov+frag_discont+skip_trailer"


@dataclass(frozen=True)
class Sample:
    """One encoded picture or sound packet; `start` and `duration` count its track's ticks, `start` may be negative."""

    start: int
    duration: int
    keyframe: bool
    data: bytes

    @property
    def stop(self) -> int:
        """The tick after the last one it covers."""
        return self.start + self.duration


@dataclass(frozen=True)
class Track:
    """What an MP4 must know of a stream before its first sample.

    Args:
        template: an open PyAV stream whose codec parameters are copied.
        extradata: the decoder's configuration.
        ticks_per_s: the track's time scale.
        codecs: the name that players ask for, RFC 6381.
    """

    template: Stream
    extradata: bytes
    ticks_per_s: int
    codecs: str


@contextmanager
def video_track(video_format: VideoFormat, first_packet: bytes, fps: Fraction) -> Iterator[Track]:
    """The picture's track for as long as the context is open; one frame lasts `fps.denominator` ticks."""
    # Any stream of the same codec will do as a template, and FFmpeg finds one in the bare H.264 packets.
    bare = BytesIO(video_format.extradata + first_packet)
    with reported("reading the film's first packet"), av.open(bare, "r", format=video_format.codec) as source:
        template = source.streams.video[0]
        if (template.width, template.height) != (video_format.width, video_format.height):
            raise MediaError(
                f"the first packet holds {template.width}x{template.height} pixels,"
                f" its segment says {video_format.width}x{video_format.height}; encode the segment again"
            )
        yield Track(template, video_format.extradata, fps.numerator, _avc_name(video_format.extradata))


def _avc_name(extradata: bytes) -> str:
    """`avc1.PPCCLL`: profile, constraints and level, the first bytes of the sequence parameter set (RFC 6381, 3.3)."""
    start = extradata.find(b"\0\0\1")
    if start < 0:
        raise MediaError("the segment's extradata holds no parameter sets; encode it with a global header")
    return f"avc1.{extradata[start + 4 : start + 7].hex()}"


def fragment(track: Track, samples: Sequence[Sample], number: int) -> tuple[bytes, bytes]:
    """A header and one fragment; the header is the same for every fragment of a track.

    Args:
        samples: in order, none of them before 0; the fragment says at which time they start.
        number: counts the track's fragments, from 1.
    """
    options = {
        "movflags": _FRAGMENT_FLAGS,
        "fragment_index": str(number),
        "movie_timescale": str(track.ticks_per_s),
        "video_track_timescale": str(track.ticks_per_s),
    }
    buffer = BytesIO()
    with reported("writing a fragment"), av.open(buffer, "w", format="mp4", options=options) as container:
        stream = _add_stream(container, track)
        for sample in samples:
            container.mux_one(_packet(stream, track, sample))
    boxes = list(_boxes(buffer.getvalue()))
    header = b"".join(box for kind, box in boxes if kind in ("ftyp", "moov"))
    media = b"".join(box for kind, box in boxes if kind in ("moof", "mdat"))
    return header, media


def _boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The top-level boxes and their kinds, in order (ISO/IEC 14496-12, 4.2)."""
    position = 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if size < 8:
            raise MediaError(f"a fragment's {kind!r} box has size {size}, too large for 32 bits; use shorter chunks")
        yield kind.decode("latin-1"), data[position : position + size]
        position += size


def _add_stream(container: OutputContainer, track: Track) -> Stream:
    stream: Stream = container.add_stream_from_template(track.template, opaque=True)
    stream.codec_context.extradata = track.extradata
    stream.time_base = Fraction(1, track.ticks_per_s)
    return stream


def _packet(stream: Stream, track: Track, sample: Sample) -> av.Packet[Any]:
    packet: av.Packet[Any] = av.Packet(sample.data)
    packet.stream = stream
    packet.time_base = Fraction(1, track.ticks_per_s)
    packet.pts = packet.dts = sample.start
    packet.duration = sample.duration
    packet.is_keyframe = sample.keyframe
    return packet


class FilmFile:
    """An MP4 that grows on disk, sample by sample, and is whole after `close`: one header, in front (faststart).

    Only the index stays in memory, about 0.2 KB per packet (50 MB an hour).

    Args:
        path: a file of this machine; written in place, so not yet where readers look.
        tracks: picture and sound; both start at 0, and samples before it (an encoder's priming) stay unheard.
        metadata: container tags such as `title` and `comment`.
    """

    def __init__(self, path: Path, tracks: Sequence[Track], metadata: dict[str, str]) -> None:
        scale = lcm(*(track.ticks_per_s for track in tracks))
        if scale > _MAX_TIMESCALE:
            scale = max(track.ticks_per_s for track in tracks)
        options = {
            "movflags": "faststart",
            "movie_timescale": str(scale),  # durations in the header are whole ticks of it, so exact for all tracks
            "video_track_timescale": str(tracks[0].ticks_per_s),
        }
        self._tracks = tracks
        self._file = path.open("wb", buffering=0)
        self._container = av.open(self._file, "w", format="mp4", options=options)
        self._container.metadata.update(metadata)
        self._streams = [_add_stream(self._container, track) for track in tracks]

    def write(self, track: int, samples: Sequence[Sample]) -> None:
        """Append samples to track number `track`."""
        with reported("writing the film"):
            for sample in samples:
                self._container.mux_one(_packet(self._streams[track], self._tracks[track], sample))

    def close(self) -> None:
        """Write the index; only now is the file a film."""
        with reported("finishing the film"), self._file:
            self._container.close()

    def abort(self) -> None:
        """Release everything without finishing the file, which is then unusable. Does nothing after `close`."""
        self._file.close()  # first: PyAV writes no index to a file that is closed
        self._container.close()
