"""One clock for a file whose clock restarts, as that of joined transport streams does.

Every reader goes through the packets of picture and sound in the file's order, so all readers find the same restarts
and move the same packets by the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from longtake.pipeline.media.source import only

_CLOCK_MAY_RESTART = 0x200  # FFmpeg's AVFMT_TS_DISCONT, of a container's format
# As in FFmpeg's `ts_discontinuity_process`: a clock restarts where it leaps or falls back by more than this.
_LEAP_S, _FALL_S = Fraction(10), Fraction(1, 10)


class Timeline:
    """Moves the packets that come after a restart so that they continue what was before it.

    Args:
        container: at its start. Only containers that FFmpeg knows to restart are watched.

    Attributes:
        is_watched: whether the clock of such a container may restart.
        restarts: how many restarts there were so far.
    """

    def __init__(self, container: InputContainer) -> None:
        self.restarts = 0
        self._container = container
        self.is_watched = bool(container.format.flags & _CLOCK_MAY_RESTART)
        self._shift_s = Fraction(0)
        self._due_s: dict[int, Fraction] = {}
        self._latest_s: Fraction | None = None

    def packets(self, wanted: Sequence[Stream]) -> Iterator[Packet[Any]]:
        """The packets of `wanted` in the file's order, on one clock."""
        streams = [*wanted]
        if self.is_watched:
            chosen = {stream.index for stream in wanted}
            streams += [stream for stream in timed_streams(self._container) if stream.index not in chosen]
        only(self._container, *streams)
        indices = {stream.index for stream in wanted}
        for packet in self._container.demux(streams):
            if self.is_watched:
                self._move(packet)
            is_end = packet.pts is None and packet.dts is None  # PyAV's sign that a stream has ended; it has no index
            if packet.stream.index in indices and (packet.size or is_end):
                yield packet

    def _move(self, packet: Packet[Any]) -> None:
        ticks = packet.pts if packet.dts is None else packet.dts
        if ticks is None:
            return
        tick_s = packet.time_base
        if packet.stream.type in {"video", "audio"}:
            here_s = ticks * tick_s + self._shift_s
            due_s = self._due_s.get(packet.stream_index)
            leap_s = (
                here_s - (self._latest_s if due_s is None else due_s) if self._latest_s is not None else Fraction(0)
            )
            if abs(leap_s) > _LEAP_S or (due_s is not None and leap_s < -_FALL_S):
                self._shift_s -= leap_s
                self.restarts += 1
                here_s -= leap_s
            self._latest_s = self._due_s[packet.stream_index] = here_s + (packet.duration or 0) * tick_s
        if self._shift_s:
            shift = round(self._shift_s / tick_s)
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift


def timed_streams(container: InputContainer) -> list[Stream]:
    """Picture and sound, without covers."""
    streams: list[Stream] = [*container.streams.video, *container.streams.audio]
    return [stream for stream in streams if not stream.disposition & Disposition.attached_pic]


def common_start_s(container: InputContainer) -> Fraction:
    """When the first picture or sound of a file is presented, on the file's clock; 0 if the file does not say."""
    starts = [
        stream.start_time * stream.time_base
        for stream in timed_streams(container)
        if stream.start_time is not None and stream.time_base
    ]
    return min(starts, default=Fraction(0))
