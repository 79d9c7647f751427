"""When each picture of a film is presented: counted from what a player shows, never from a header.

One pass over the packets suffices for most films. The pictures are decoded once where packets do not tell: packets
without times, two pictures at one time, codecs with hidden pictures, two packets for the fields of one picture, and
films that are damaged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from itertools import islice, pairwise
from typing import Any

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.changes import Change, ChangeWatch, is_sound_watched
from longtake.pipeline.media.source import bytes_of, codec_name, opened, picture_stream
from longtake.pipeline.media.timeline import Timeline, common_start_s
from longtake.pipeline.media.whole import check_whole

STOP, SKIP, HOLD = "stop", "skip", "hold"
DAMAGED = (STOP, SKIP, HOLD)
"""What happens to pictures that do not decode: the film is refused, they are left out, or the one before is held."""

_END_BYTES = 1 << 16
_DEFAULT_RATE = Fraction(25)
_HIDES_PICTURES = {"vp8"}
_CODES_FIELDS = {"h264"}
_TRIED_PACKETS = 48
# Beyond this a time is no time: FFmpeg's own bound for a jump, and far below what overflows.
_MOST_S = 30 * 3600


_Shown = tuple[int, int, bool]  # time and duration in ticks, and whether decoding can begin here


@dataclass(frozen=True)
class Times:
    """The pictures of a film, in the order in which they are shown.

    Args:
        pts: the time of each in ticks of the stream's time base, after restarts of the clock are evened out.
        durations: ticks from each to the next.
        keyframes: numbers of the pictures at which decoding can begin.
        digest: sha256 in hex over the packets, these times, and the file's size, head and tail.
        start_s: the common start of picture and sound, which is 0 for most films.
        size: bytes of the file.
        in_order: whether pictures are identified by their order from the film's start, not by their times.
        restarts: whether the clock restarts, so that a seek cannot find a time.
        lost_s: the times of pictures that do not decode, and are left out or replaced by the picture before.
        shows: for each picture the number of the one that is decoded for it; empty if that is itself.
        changes: what changes inside picture or sound, as far as packets tell.
        has_captions: whether a picture has captions in it (CTA-708).
    """

    pts: tuple[int, ...]
    durations: tuple[int, ...]
    keyframes: tuple[int, ...]
    digest: str
    start_s: Fraction
    size: int
    in_order: bool = False
    restarts: bool = False
    lost_s: tuple[Fraction, ...] = ()
    shows: tuple[int, ...] = ()
    changes: tuple[Change, ...] = ()
    has_captions: bool = False


def picture_times(url: str, damaged: str | None = STOP) -> Times:
    """Index the pictures of the film at `url`.

    Args:
        damaged: "stop", "skip" or "hold", see `DAMAGED`; None to count packets without a look at what they hold.

    Raises:
        FileNotFoundError: there is no such file.
        MediaError: it is no film, holds no picture, or is cut off or damaged and `damaged` is "stop".
    """
    with bytes_of(url) as file:
        size = int(file.seek(0, 2))
        if damaged == STOP or not size:
            check_whole(file, url)
    scan = _scanned(url, size)
    if not scan.packets:
        raise MediaError(f"{url} holds no picture; it is empty or cut off")
    if damaged == STOP and scan.corrupt:
        raise MediaError(
            f"{url} is cut off or damaged at packet {min(scan.corrupt)} of its picture; fetch it again, or use longtake"
            " upscale --damaged skip or --damaged hold"
        )
    if damaged in {STOP, None} and not scan.must_decode:
        packets = sorted(scan.packets)
        return scan.times(url, packets, _keys(packets))
    return _from_pictures(url, scan, damaged)


@dataclass
class _Scan:
    """The packets of the picture's stream: time, duration and key flag of those that are shown."""

    size: int
    tick_s: Fraction
    rate: Fraction
    start_s: Fraction = Fraction(0)
    packets: list[_Shown] = field(default_factory=list)
    content: Any = field(default_factory=sha256)
    corrupt: dict[int, int] = field(default_factory=dict)  # times of incomplete packets, by the packet's number
    must_decode: bool = False
    in_fields: bool = False
    restarts: bool = False
    changes: tuple[Change, ...] = ()
    has_captions: bool = False

    def times(self, url: str, packets: Sequence[_Shown], keyframes: tuple[int, ...], **changes: Any) -> Times:
        """The times of a film of these pictures, which are in order."""
        pts = tuple(start for start, _, _ in packets)
        durations = _durations(pts, packets[-1][1])
        self.content.update(repr((pts, durations, keyframes, *changes.values())).encode())
        self.content.update(_ends(url, self.size))
        digest = self.content.hexdigest()
        return Times(
            pts,
            durations,
            keyframes,
            digest,
            self.start_s,
            self.size,
            restarts=self.restarts,
            changes=self.changes,
            has_captions=self.has_captions,
            **changes,
        )


def _scanned(url: str, size: int) -> _Scan:
    with opened(url, size) as container:
        stream = picture_stream(container, url)
        tick_s = stream.time_base or Fraction(1)
        scan = _Scan(size, tick_s, rate_of(stream), common_start_s(container))
        scan.must_decode = codec_name(stream) in _HIDES_PICTURES
        latest, most = round(scan.start_s / tick_s), round(_MOST_S / tick_s)
        timeline, shown, restarts = Timeline(container), set[int](), 0
        watch, number = ChangeWatch(stream, scan.start_s), -1
        heard = [sound for sound in container.streams.audio if timeline.is_watched and is_sound_watched(sound)]
        for packet in timeline.packets([stream, *heard]):
            if not packet.size:
                continue
            watch.look(packet)
            if packet.stream_index != stream.index:
                continue
            number += 1
            scan.content.update(bytes(packet))
            if timeline.restarts > restarts:  # the packet that a restart cuts short is whole but for its padding
                restarts = timeline.restarts
                scan.corrupt.pop(number - 1, None)
                scan.corrupt.pop(number - 2, None)
            if packet.is_corrupt:
                scan.corrupt[number] = packet.pts or 0
            if packet.has_sidedata("encryption_info"):
                raise MediaError(f"{url} is encrypted (Common Encryption); decrypt it first")
            if packet.is_discard:
                continue
            ticks = packet.pts
            if ticks is None or ticks in shown or abs(ticks - latest) > most:
                scan.must_decode = True
            latest = ticks or 0
            scan.packets.append((latest, packet.duration or 0, packet.is_keyframe))
            shown.add(latest)
        scan.restarts, scan.changes = restarts > 0, tuple(watch.changes)
        scan.has_captions = watch.has_captions
        is_woven_perhaps = codec_name(stream) in _CODES_FIELDS
    scan.in_fields = is_woven_perhaps and not scan.must_decode and _is_in_fields(url, size)
    scan.must_decode |= scan.in_fields
    return scan


def _is_in_fields(url: str, size: int) -> bool:
    """Whether the fields of a picture have packets of their own, with times of their own."""
    packets = pictures = 0
    with opened(url, size) as container:
        stream = picture_stream(container, url)
        stream.codec_context.thread_count = 1
        for packet in islice(Timeline(container).packets([stream]), _TRIED_PACKETS):
            shown = intact(packet, url, tolerant=True)
            if any(not picture.interlaced_frame for picture in shown):
                return False
            packets, pictures = packets + bool(packet.size), pictures + len(shown)
        with suppress(av.FFmpegError):
            pictures += len(stream.codec_context.decode(None))
    return 4 * pictures < 3 * packets


def rate_of(stream: VideoStream) -> Fraction:
    """The rate of pictures that have no times of their own."""
    return stream.average_rate or stream.guessed_rate or _DEFAULT_RATE


def decoded(url: str, size: int | None = None, *, tolerant: bool) -> Iterator[VideoFrame]:
    """All pictures that are shown, decoded from the start, on one clock.

    Args:
        size: bytes of the file to read; None for all of them.
        tolerant: leave out pictures that are damaged, instead of raising `MediaError`.
    """
    with opened(url, size) as container:
        stream = picture_stream(container, url)
        stream.codec_context.thread_type = "AUTO"  # pictures are the same with any number of threads
        for packet in Timeline(container).packets([stream]):
            yield from intact(packet, url, tolerant=tolerant)


def intact(
    packet: Packet[Any], url: str, *, tolerant: bool, where: str = "", decoder: VideoCodecContext | None = None
) -> list[VideoFrame]:
    """The pictures that a packet completes; MediaError if one is damaged, or without it if `tolerant`.

    Args:
        where: which picture it is, in words.
        decoder: if not that of the packet's stream.
    """
    try:
        frames: list[VideoFrame] = packet.decode() if decoder is None else decoder.decode(packet)
    except av.FFmpegError as error:
        if tolerant:
            return []
        at = "at the end" if packet.pts is None else f"at {float(packet.pts * packet.time_base):.3f} s"
        raise MediaError(
            f"{url}: {where or 'its picture'} {at} is damaged and does not decode ({error.strerror}); fetch the file"
            " again, or use longtake upscale --damaged skip or --damaged hold"
        ) from error
    return [frame for frame in frames if not (tolerant and frame.is_corrupt)]


def _from_pictures(url: str, scan: _Scan, damaged: str | None) -> Times:
    """The times of the pictures that decode, by those of their packets if these are unambiguous."""
    broken = set(scan.corrupt.values())
    seen = [frame.pts for frame in decoded(url, scan.size, tolerant=damaged != STOP) if frame.pts not in broken]
    if not seen:
        raise MediaError(f"{url} holds no picture that decodes; it is damaged, or its codec is unknown here")
    packets = sorted(scan.packets)
    by_time = {packet[0]: packet for packet in packets}
    if not _are_clear(seen, by_time, scan):
        clock = Clock(scan.tick_s, scan.rate, scan.start_s)
        return scan.times(url, [(clock.time(time), 0, False) for time in seen], (0,), in_order=True)
    if scan.in_fields:  # the second field of a picture that is seen is no other picture
        packets = [(time, 0, key) for time, _, key in packets]
        behind = {after[0] for one, after in pairwise(packets) if one[0] in seen and after[0] not in seen}
        packets = [packet for packet in packets if packet[0] not in behind]
        by_time = {packet[0]: packet for packet in packets}
    kept = [by_time[time] for time in seen if time is not None]
    if len(by_time) < len(packets) or damaged == STOP or len(kept) == len(packets):
        return scan.times(url, kept, _keys(kept))
    good = {packet[0] for packet in kept}
    lost_s = tuple(packet[0] * scan.tick_s - scan.start_s for packet in packets if packet[0] not in good)
    if damaged == SKIP:
        return scan.times(url, kept, _keys(kept), lost_s=lost_s)
    numbers = [number for number, packet in enumerate(packets) if packet[0] in good]
    shows = [numbers[max(0, bisect_right(numbers, number) - 1)] for number in range(len(packets))]
    keyframes = tuple(number for number in numbers if packets[number][2])
    return scan.times(url, packets, keyframes, lost_s=lost_s, shows=tuple(shows))


def _are_clear(times: Sequence[int | None], known: Container[int], scan: _Scan) -> bool:
    """Whether each picture has the time of a packet, and they grow, and not without bounds."""
    clear = [time for time in times if time is not None and time in known]
    most = round(_MOST_S / scan.tick_s)
    return len(clear) == len(times) and all(0 < after - before <= most for before, after in pairwise(clear))


def _keys(packets: Sequence[_Shown]) -> tuple[int, ...]:
    return tuple(number for number, (_, _, key) in enumerate(packets) if key)


class Clock:
    """Times of pictures as they come: those that they have where these grow, else by the rate."""

    def __init__(self, tick_s: Fraction, rate: Fraction, start_s: Fraction) -> None:
        self._step, self._most = max(1, round(1 / (rate * tick_s))), round(_MOST_S / tick_s)
        self._latest = round(start_s / tick_s) - self._step

    def time(self, pts: int | None) -> int:
        """The time of the next picture, in ticks."""
        is_good = pts is not None and self._latest < pts <= self._latest + self._most
        self._latest = pts if pts is not None and is_good else self._latest + self._step
        return self._latest


def _durations(pts: Sequence[int], last: int) -> tuple[int, ...]:
    """Ticks from each picture to the next; the last lasts as long as it says, or as the one before it."""
    steps = [after - before for before, after in pairwise(pts)]
    return (*steps, last or (steps[-1] if steps else 1))


def _ends(url: str, size: int) -> bytes:
    with bytes_of(url) as file:
        file.seek(0)
        head = file.read(min(size, _END_BYTES))
        start = max(0, size - _END_BYTES)
        file.seek(start)
        return b"".join([size.to_bytes(8, "big"), head, file.read(size - start)])
