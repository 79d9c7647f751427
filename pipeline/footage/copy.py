"""Streams that are not the picture, copied packet by packet from one container to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import islice
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Disposition, Stream

from longtake.pipeline.footage.values import Chapter, Footage, OtherStream, kept_tags
from longtake.pipeline.media.source import codec_name, opened
from longtake.pipeline.media.timeline import Timeline

_SILENCE = bytes(2)
_FIRST_PACKETS = 500
_TRIED_PACKETS = 3
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


@dataclass(frozen=True)
class Excerpt:
    """The part of the footage that is written, and how its times move.

    Args:
        frames: numbers of its pictures.
        start_s, stop_s: its time in the footage; None where nothing is cut.
        shift: ticks of the footage's time base that are taken from every time.
        time_base: the footage's.
    """

    frames: range
    start_s: Fraction | None
    stop_s: Fraction | None
    shift: int
    time_base: Fraction

    @staticmethod
    def of(footage: Footage, frames: range) -> Excerpt:
        """The excerpt of pictures `frames`. The whole footage keeps its times but for a common start."""
        first, last = footage.pts[frames.start], footage.pts[frames.stop - 1] + footage.durations[frames.stop - 1]
        if len(frames) == footage.num_frames:
            start = round(footage.start_s / footage.time_base)
            return Excerpt(frames, None, None, min(start, first), footage.time_base)
        tick_s = footage.time_base
        return Excerpt(frames, first * tick_s, last * tick_s, first, tick_s)

    @property
    def is_cut(self) -> bool:
        """Whether it is less than the whole footage."""
        return self.start_s is not None

    def shifted(self, pts: int) -> int:
        """A picture's time in the new file."""
        return pts - self.shift

    def ticks(self, time_base: Fraction) -> int:
        """What is taken from the times of a stream with this time base."""
        return round(self.shift * self.time_base / time_base)

    def holds(self, start_s: Fraction, stop_s: Fraction) -> bool:
        """Whether any of that time lies inside."""
        begins = self.stop_s is None or start_s < self.stop_s
        return begins and (self.start_s is None or stop_s > self.start_s or start_s == self.start_s)

    def chapters(self, chapters: tuple[Chapter, ...]) -> list[Any]:
        """The chapters inside, as PyAV takes them."""
        inside = []
        for number, one in enumerate(chapters):
            start, stop = one.start * one.time_base, one.stop * one.time_base
            if self.holds(start, stop):
                shift = self.ticks(one.time_base)
                first = one.start if self.start_s is None else max(one.start, round(self.start_s / one.time_base))
                last = one.stop if self.stop_s is None else min(one.stop, round(self.stop_s / one.time_base))
                inside.append(
                    {
                        "id": number,
                        "start": first - shift,
                        "end": last - shift,
                        "time_base": one.time_base,
                        "metadata": dict(one.metadata),
                    }
                )
        return inside


def lost_streams(footage: Footage, container: str) -> list[OtherStream]:
    """Streams that a container of this format cannot hold."""
    return [other for other in footage.others if not _is_held(footage, other, container)]


def lost_languages(footage: Footage, container: str) -> list[OtherStream]:
    """Streams whose language a container of this format has no code for: QuickTime knows a few dozen."""
    if container != "mov":
        return []
    return [other for other in footage.others if other.language not in {"", "und"} and not _has_code(other.language)]


def sound_before_zero_s(footage: Footage) -> Fraction:
    """By how much the first packet of sound begins before 0, as an encoder's priming does.

    0 for Matroska, which keeps that as a codec's delay, and hands it on to the next.
    """
    if "matroska" in footage.container or not any(other.kind == "audio" for other in footage.others):
        return Fraction(0)
    with opened(footage.url, footage.size) as container:
        awaited = {stream.index for stream in container.streams.audio}
        earliest = Fraction(0)
        for packet in islice(Timeline(container).packets(container.streams.audio), _FIRST_PACKETS):
            if is_cut_away(packet):
                continue
            earliest = min(earliest, (packet.pts or 0) * packet.time_base - footage.start_s)
            awaited.discard(packet.stream_index)
            if not awaited:
                break
        return -earliest


def is_cut_away(packet: Packet[Any]) -> bool:
    """Whether an edit list hides a packet that ends before the film, and is no encoder's priming either."""
    return packet.is_discard and packet.pts is not None and packet.pts + (packet.duration or 0) < 0


def _has_code(language: str) -> bool:
    """Tried with a file of one sample."""
    file = BytesIO()
    with av.open(file, "w", format="mov") as out:
        stream = out.add_stream("pcm_s16le", rate=48000, layout="mono")
        stream.metadata["language"] = language
        sample: Packet[Any] = Packet(bytes(2))
        sample.stream, sample.pts, sample.dts, sample.time_base = stream, 0, 0, Fraction(1, 48000)
        out.mux_one(sample)
    file.seek(0)
    with av.open(file, "r") as back:
        return back.streams[0].language == language


def _is_held(footage: Footage, other: OtherStream, container: str) -> bool:
    """Tried, not looked up: whether FFmpeg writes a file of that format with that stream and its first packets."""
    if other.is_written_with_picture:
        return True
    with opened(footage.url, footage.size) as source:
        stream = source.streams[other.index]
        if isinstance(stream, AttachmentStream):
            return container == "matroska"
        if stream.disposition & Disposition.attached_pic:
            return container in {"matroska", "mp4"}
        try:
            with av.open(BytesIO(), "w", format=container) as trial:
                copy = _added(trial, stream)
                trial.start_encoding()
                for packet in islice(_first_packets(source, stream), _TRIED_PACKETS):
                    packet.stream = copy
                    trial.mux_one(packet)
        except (ValueError, NotImplementedError, av.FFmpegError):
            return False
    return True


def _added(out: OutputContainer, stream: Stream) -> Stream:
    """A stream of `out` like one of the footage. Channels without places, as in AVI, get the usual ones."""
    copy: Stream = out.add_stream_from_template(stream, opaque=True)
    if isinstance(copy, AudioStream) and isinstance(stream, AudioStream) and stream.layout.name.endswith(" channels"):
        copy.codec_context.layout = _USUAL_LAYOUTS.get(stream.layout.nb_channels, stream.layout)
    return copy


def _first_packets(source: InputContainer, stream: Stream) -> Iterator[Packet[Any]]:
    """The packets of a stream among the first of picture and that stream."""
    for packet in islice(source.demux([*source.streams.video[:1], stream]), _FIRST_PACKETS):
        if packet.stream_index == stream.index and packet.size and packet.dts is not None:
            yield packet


class Copier:
    """Copies streams of `source` that `out` can hold, within `excerpt`, up to a given time in each call."""

    def __init__(
        self, source: InputContainer, out: OutputContainer, footage: Footage, container: str, excerpt: Excerpt
    ) -> None:
        self._out, self._excerpt, self._container = out, excerpt, container
        self._copies: dict[int, Stream] = {}
        self._decoded: dict[int, int] = {}  # of each stream of sound, when the latest packet is decoded
        lost = {other.index for other in lost_streams(footage, container)}
        for other in footage.others:
            stream = source.streams[other.index]
            if other.index in lost or other.is_written_with_picture:
                continue
            if isinstance(stream, AttachmentStream):
                self._attach(stream)
            elif stream.disposition & Disposition.attached_pic and container == "matroska":
                self._attach_cover(footage, stream)
            else:
                self._copies[other.index] = self._copy_of(stream)
        self._packets = self._wanted(source)
        self._next = next(self._packets, None)

    def copy_until(self, time_s: Fraction | None) -> None:
        """Copy every packet that is decoded no later than `time_s` of the new file; all that are left if None."""
        while self._next is not None and (time_s is None or _decoded_s(self._next) <= time_s):
            self._out.mux_one(self._next)
            self._next = next(self._packets, None)

    def _copy_of(self, stream: Stream) -> Stream:
        copy = _added(self._out, stream)
        is_cover = stream.disposition & Disposition.attached_pic  # with any other flag, an MP4 shows it as a film
        copy.disposition = Disposition.attached_pic if is_cover else stream.disposition
        copy.metadata.update(kept_tags(stream.metadata))
        return copy

    def _attach(self, stream: AttachmentStream) -> None:
        name = stream.metadata.get("filename", f"attachment-{stream.index}")
        copy = self._out.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)
        copy.metadata.update(stream.metadata)

    def _attach_cover(self, footage: Footage, stream: Stream) -> None:
        """Matroska has covers as attachments of a certain name, not as streams."""
        with opened(footage.url, footage.size) as again:
            cover = next((packet for packet in again.demux(again.streams[stream.index]) if packet.size), None)
        if cover is None:
            return
        suffix = {"mjpeg": "jpg"}.get(codec_name(stream), codec_name(stream))
        kind = stream.metadata.get("mimetype", f"image/{'jpeg' if suffix == 'jpg' else suffix}")
        copy = self._out.add_attachment(stream.metadata.get("filename", f"cover.{suffix}"), kind, bytes(cover))
        copy.metadata.update({name: text for name, text in stream.metadata.items() if name.lower() == "title"})

    def _wanted(self, source: InputContainer) -> Iterator[Packet[Any]]:
        if not self._copies:
            return
        streams = [source.streams[index] for index in self._copies]
        for packet in Timeline(source).packets(streams):
            if packet.pts is None and packet.dts is None:
                if not packet.size:
                    continue  # PyAV's sign that a stream has ended
                packet.pts = packet.dts = 0  # a cover
            if self._fit(packet) and not self._repeats(packet):
                packet.stream = self._copies[packet.stream_index]
                yield packet

    def _repeats(self, packet: Packet[Any]) -> bool:
        """Whether a packet of sound begins before the latest one, as where transport streams are joined."""
        if packet.stream.type != "audio" or packet.dts is None:
            return False
        latest = self._decoded.get(packet.stream_index)
        if latest is not None and packet.dts <= latest:
            return True
        self._decoded[packet.stream_index] = packet.dts
        return False

    def _fit(self, packet: Packet[Any]) -> bool:
        """Move a packet into the new file's time; False if it lies outside."""
        tick_s = packet.time_base
        pts = (packet.dts or 0) if packet.pts is None else packet.pts
        dts = pts if packet.dts is None else packet.dts
        kind = packet.stream.type
        if self._container != "matroska" and codec_name(packet.stream) == "mov_text" and bytes(packet) == _SILENCE:
            return False  # the pause between two lines, which the writer creates again
        if self._container == "matroska" and is_cut_away(packet):
            return False
        if not packet.stream.disposition & Disposition.attached_pic:
            if not self._excerpt.holds(pts * tick_s, (pts + (packet.duration or 0)) * tick_s):
                return False
            shift = self._excerpt.ticks(tick_s)
            pts, dts = pts - shift, dts - shift
            if self._excerpt.is_cut and kind == "subtitle" and pts < 0:
                packet.duration, pts, dts = (packet.duration or 0) + pts, 0, 0  # a line that is being read already
            if self._excerpt.is_cut and self._container == "matroska" and pts < 0:
                return False  # its times begin at 0: one packet that begins before would delay all the rest
        packet.pts, packet.dts = pts, dts
        return True


def _decoded_s(packet: Packet[Any]) -> Fraction:
    time_s: Fraction = (packet.dts or 0) * packet.time_base
    return time_s
