"""Muxing the enlarged pictures with everything else in the footage, in one file.

Packets of other streams are copied unchanged. What the new container cannot hold is reported by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from math import lcm
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import torch
from av.packet import Packet
from av.stream import Disposition

from longtake.pipeline.errors import EncodingError, MediaError
from longtake.pipeline.footage.codecs import FootageEncoding, target_of
from longtake.pipeline.footage.copy import Copier, Excerpt, lost_languages, lost_streams, sound_before_zero_s
from longtake.pipeline.footage.encode import FootagePacket, FootageSegment, FootageSegmentEncoder
from longtake.pipeline.footage.timecode import timecode_after
from longtake.pipeline.footage.track import described_track
from longtake.pipeline.footage.values import Footage, kept_tags
from longtake.pipeline.media.ffmpeg import reported
from longtake.pipeline.media.source import opened

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
_MAX_TIMESCALE = 2**31 - 1
SAME_EACH_TIME = {"fflags": "+bitexact"}  # otherwise Matroska has random identifiers
_MILLISECOND = Fraction(1, 1000)
_REHEARSED_S = Fraction(1)
# Tags with a standard place in an MP4. Others are stored as QuickTime metadata.
_PLAIN_TAGS = {
    "title", "artist", "album_artist", "album", "comment", "genre", "copyright", "grouping", "lyrics", "description",
    "synopsis", "show", "episode_id", "network", "keywords", "composer", "date", "creation_time",
}  # fmt: skip


def check_output(footage: Footage, encoding: FootageEncoding, path: Path) -> tuple[str, ...]:
    """What `path` will not hold of `footage`, in words, known before any work starts.

    Raises:
        MediaError: the container is unknown, or cannot hold the codec.
    """
    container = _format(path, encoding)
    if path.exists() and Path(footage.url).exists() and path.samefile(footage.url):
        raise MediaError(f"{path} is the footage itself; write to another file")
    if footage.size_change:
        raise MediaError(f"{footage.url}: {footage.size_change}; cut the film there")
    losses = [*footage.notes, *target_of(footage, encoding).losses]
    losses += [f"{other} is left out: {path.suffix} cannot hold it" for other in lost_streams(footage, container)]
    losses += [
        f"{other} is written without its language, which {path.suffix} has no code for"
        for other in lost_languages(footage, container)
    ]
    early_ms = round(sound_before_zero_s(footage) * 1000) if container == "matroska" else 0
    if early_ms:
        losses.append(f"all times are {early_ms} ms later in {path.suffix}, which begins at 0: its sound begins before")
    if container == "matroska" and not _is_in_milliseconds(footage):
        losses.append(f"times are rounded to milliseconds in {path.suffix}; .mp4 keeps them exactly")
    return tuple(losses)


def rehearse(footage: Footage, encoding: FootageEncoding, scale: int, path: Path) -> None:
    """Write a film of one black picture, with the header and the first packets of everything else, and discard it.

    What an encoder or a muxer refuses is refused before the work, not after it.

    Raises:
        MediaError: the encoder or the container refuses the film.
    """
    encoder = FootageSegmentEncoder(footage, scale, encoding, range(1))
    encoder.add(torch.zeros(1, 3, footage.height * scale, footage.width * scale))
    segment = encoder.finish()
    excerpt = Excerpt.of(footage, range(footage.num_frames))
    try:
        with TemporaryDirectory(prefix="longtake-") as folder, ExitStack() as stack:
            film = _Film(footage, encoding, Path(folder) / f"rehearsal{path.suffix}", excerpt, segment, stack)
            film.write(segment.packets[0])
            film.finish(whole=False)
    except MediaError as error:
        raise MediaError(
            f"{path} cannot be written, as a trial with its first second shows ({error.__cause__ or error}); use"
            " another container, such as .mkv"
        ) from error


def write_footage(
    footage: Footage,
    segments: Iterable[FootageSegment],
    encoding: FootageEncoding,
    path: Path,
    frames: range | None = None,
) -> tuple[str, ...]:
    """Write the film: the segments as its picture, and every other stream, chapter, attachment and tag of `footage`.

    Segments are read one at a time and in order. The pictures keep their times. If they are fewer than those of the
    footage, everything else is cut to their time, and the first picture is shown at 0.

    Args:
        path: a local .mp4, .mov or .mkv file; deleted on failure.
        frames: numbers of the pictures that the segments hold together; if None, what a sequence of segments holds,
            and of any other iterable all pictures of the footage.

    Returns:
        What the file does not hold, in words, as `check_output` returns it.

    Raises:
        MediaError: segments are missing, do not fit together, or the file cannot be written.
    """
    warnings = check_output(footage, encoding, path)
    if frames is None and isinstance(segments, Sequence) and segments:
        frames = range(segments[0].frames.start, segments[-1].frames.stop)
    excerpt = Excerpt.of(footage, range(footage.num_frames) if frames is None else frames)
    packets = _Packets(segments, excerpt.frames)
    try:
        with ExitStack() as stack:
            film = _Film(footage, encoding, path, excerpt, packets.first, stack)
            for packet in packets:
                film.write(packet)
            film.finish()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return warnings


def _format(path: Path, encoding: FootageEncoding) -> str:
    if path.suffix.lower() not in encoding.containers:
        raise EncodingError(f"{path.name}: {encoding.codec} is written to {', '.join(encoding.containers)}; end it so")
    return FORMATS[path.suffix.lower()]


def _is_in_milliseconds(footage: Footage) -> bool:
    """Whether no time is rounded; MediaError if two pictures would have the same time."""
    ticks = footage.time_base / _MILLISECOND
    if ticks.denominator == 1:
        return True
    for number, duration in enumerate(footage.durations[:-1]):
        if duration * ticks < 1:
            raise MediaError(
                f"pictures {number} and {number + 1} are less than a millisecond apart, which .mkv cannot tell;"
                " write an .mp4"
            )
    return not any(pts * ticks.numerator % ticks.denominator for pts in footage.pts)


class _Packets:
    """The packets of all segments in order, checked: each picture once, equal sizes and extradata."""

    def __init__(self, segments: Iterable[FootageSegment], frames: range) -> None:
        self._segments, self._frames = iter(segments), frames
        first = next(self._segments, None)
        if first is None:
            raise MediaError(f"no segment came for pictures {frames.start}..{frames.stop - 1}; make them first")
        self.first = first

    def __iter__(self) -> Iterator[FootagePacket]:
        due = self._frames.start
        for segment in chain((self.first,), self._segments):
            self._check(segment, due)
            yield from segment.packets
            due = segment.frames.stop
        if due != self._frames.stop:
            raise MediaError(f"the segments end at picture {due - 1}, the film at {self._frames.stop - 1}")

    def _check(self, segment: FootageSegment, due: int) -> None:
        if segment.frames.start != due or segment.frames.stop > self._frames.stop:
            raise MediaError(f"segment {segment.frames} came where picture {due} was due; give them in order")
        if len(segment.packets) != len(segment.frames):
            raise MediaError(f"segment {segment.frames} holds {len(segment.packets)} packets; make it again")
        one, other = (self.first.width, self.first.height), (segment.width, segment.height)
        if one != other or segment.extradata != self.first.extradata:
            raise MediaError(
                f"segment {segment.frames} ({other[0]}x{other[1]}) was encoded otherwise than the first"
                f" ({one[0]}x{one[1]}); make all of them with the same settings and versions"
            )


class _Film:
    """The file while it is written: before each picture, the packets of other streams up to its time."""

    def __init__(
        self,
        footage: Footage,
        encoding: FootageEncoding,
        path: Path,
        excerpt: Excerpt,
        first: FootageSegment,
        stack: ExitStack,
    ) -> None:
        self._footage, self._excerpt, self._path = footage, excerpt, path
        container = _format(path, encoding)
        source = stack.enter_context(opened(footage.url, footage.size))
        size = (first.width, first.height)
        target = target_of(footage, encoding)
        template = stack.enter_context(described_track(footage, encoding.codec, size, target.colour))
        options = mp4_options(footage) if container != "matroska" else SAME_EACH_TIME
        with reported(f"opening {path}"):
            self._out = stack.enter_context(
                av.open(str(path), "w", format=container, options=options, metadata_errors="surrogateescape")
            )
            self._stream = self._out.add_stream_from_template(template, opaque=True)
            self._describe(first, encoding, container)
            self._copier = Copier(source, self._out, footage, container, excerpt)
            self._out.metadata.update(self._tags(footage.metadata))
            self._out.set_chapters(excerpt.chapters(footage.chapters))

    def write(self, packet: FootagePacket) -> None:
        """Write one picture, and the packets before it."""
        with reported(f"writing {self._path}"):
            self._copier.copy_until(self._excerpt.shifted(packet.pts) * self._footage.time_base)
            self._out.mux_one(self._packet(packet))

    def finish(self, *, whole: bool = True) -> None:
        """Write the index, and before it the rest of the other streams: all of it if the film is to be `whole`."""
        with reported(f"finishing {self._path}"):
            self._copier.copy_until(None if whole else _REHEARSED_S)
            self._out.close()

    def _describe(self, first: FootageSegment, encoding: FootageEncoding, container: str) -> None:
        footage, stream, context = self._footage, self._stream, self._stream.codec_context
        context.extradata = first.extradata
        if encoding.codec == "hevc" and container != "matroska":
            context.codec_tag = "hvc1"  # Apple's players accept no other
        if encoding.codec == "prores":
            context.codec_tag = "ap4h" if target_of(footage, encoding).layout.chroma == "444" else "apch"
        context.sample_aspect_ratio = footage.sample_aspect_ratio or Fraction(0)
        has_timecode = "timecode" in footage.stream_metadata or "timecode" in footage.metadata
        if has_timecode and (footage.frame_rate is None or footage.pulldown is not None):
            context.framerate = footage.timecode_rate
        elif footage.frame_rate is not None or container != "matroska":
            context.framerate = footage.encoded_rate
        stream.time_base = footage.time_base
        stream.disposition = Disposition(footage.disposition)
        stream.metadata.update(self._tags(footage.stream_metadata))
        if footage.display_matrix is not None:
            scale = first.width // footage.width
            matrix = list(footage.display_matrix)
            stream.set_display_matrix([*matrix[:6], matrix[6] * scale, matrix[7] * scale, matrix[8]])

    def _tags(self, tags: dict[str, str]) -> dict[str, str]:
        """The tags that hold for the new file; a timecode is that of its first picture."""
        footage, kept = self._footage, kept_tags(tags)
        kept = {name: text for name, text in kept.items() if name.lower() != "alpha_mode"}  # VP9's, and VP8's
        rate = footage.timecode_rate
        for name in kept.keys() & {"timecode", "TIMECODE"}:
            past = (footage.pts[self._excerpt.frames.start] - footage.pts[0]) * footage.time_base
            kept[name] = timecode_after(kept[name], round(past * rate), rate)
        return kept

    def _packet(self, one: FootagePacket) -> Packet[Any]:
        packet: Packet[Any] = Packet(one.data)
        packet.stream, packet.time_base = self._stream, self._footage.time_base
        packet.pts = packet.dts = self._excerpt.shifted(one.pts)
        packet.duration, packet.is_keyframe = one.duration, one.keyframe
        return packet


def mp4_options(footage: Footage) -> dict[str, str]:
    """Time scales in which every time is a whole number, and the index at the front."""
    own = footage.time_base.denominator
    scales = [own, *(one.time_base.denominator for one in footage.others if one.time_base and one.kind == "audio")]
    videos = [own, *(one.time_base.denominator for one in footage.others if one.time_base and one.kind == "video")]
    movie, video = lcm(*scales), lcm(*videos)
    flags = "faststart"
    if {name.lower() for name in kept_tags(footage.metadata)} - _PLAIN_TAGS:
        flags += "+use_metadata_tags"
    return SAME_EACH_TIME | {
        "movflags": flags,
        "movie_timescale": str(movie if movie <= _MAX_TIMESCALE else max(scales)),
        "video_track_timescale": str(video if video <= _MAX_TIMESCALE else own),
    }
