"""Telecined films: 24 pictures a second, recorded as 30 that are woven of fields (3:2 pulldown).

FFmpeg's `fieldmatch` puts each film picture together again from its two fields, so that of five pictures one repeats
another. That one is left out, and the other four get the times at which the film showed them. Where no picture
repeats another, as in video that was cut in, all are kept.

Shapes: h w pixels of a small picture.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from itertools import islice, pairwise
from statistics import median
from typing import Any
from zlib import crc32

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from longtake.pipeline.footage.cuts import Grey, small
from longtake.pipeline.footage.deinterlace import LEAST_SIDE, deinterlaced
from longtake.pipeline.footage.pictures import frames_from
from longtake.pipeline.footage.values import Footage, Pulldown

_CYCLE, _KEPT = 5, 4
_RATE = 30
_ORDERS = ("tff", "bff")
_MOST_ROWS = 1088  # of a picture that may be woven though it is not marked so
_COMB, _COMBED = 10, 0.001  # 8-bit units of a comb, and the share of them in a woven picture
_WINDOWS, _WINDOW = 3, 6 * _CYCLE
_LEAST_WOVEN, _MOST_WOVEN = 0.15, 0.7  # share of pictures whose fields are of two film pictures: two of five
_LEAST_CYCLES = 3  # that move
_LEAST_REPEATING = 0.7  # share of cycles with a repeated picture
_REPEATED = 0.4  # how much less a repeated picture changes than its neighbours
_UNKNOWN = -1
_STILL = 1.0  # 8-bit units: a cycle that changes less does not tell which picture is repeated


def without_pulldown(footage: Footage) -> Footage:
    """The film inside telecined footage; the footage itself if it is not telecined."""
    if min(footage.width, footage.height) < LEAST_SIDE:
        return footage
    if footage.shows or footage.in_order or footage.restarts or abs(footage.rate - _RATE) > Fraction(1, 2):
        return footage
    order = _order_of(footage)
    if order is None:
        return footage
    changes = _changes(small(frame) for _, frame in deinterlaced(_decoded(footage, 0), order))
    phases = _phases(changes)
    kept = [number for number in range(footage.num_frames) if number % _CYCLE != phases[number // _CYCLE]]
    pts = tuple(_time(footage, number, phases[number // _CYCLE]) for number in kept)
    stop = footage.pts[-1] + footage.durations[-1]
    durations = tuple(after - before for before, after in pairwise((*pts, stop)))
    film = Fraction(_KEPT, _CYCLE) * (footage.nominal_rate or footage.rate)
    steady = all(abs(ticks - 1 / (film * footage.time_base)) <= 1 for ticks in durations[:-1])
    note = (
        f"telecined: {len(kept)} film pictures are put together from {footage.num_frames}; --deinterlace off keeps the"
        " fields woven"
    )
    return replace(
        footage,
        pts=pts,
        durations=durations,
        shows=tuple(kept),
        pulldown=Pulldown(order, footage.pts),
        deinterlaced=True,
        frame_rate=film if steady else None,
        fingerprint=sha256(f"{footage.fingerprint} fieldmatch {order}".encode()).hexdigest(),
        notes=(*footage.notes, note),
    )


def _order_of(footage: Footage) -> str | None:
    """Which field of each picture comes first, if a part of the footage is telecined."""
    starts = {footage.num_frames * part // _WINDOWS for part in range(_WINDOWS)}
    windows = sorted({max((key for key in footage.keyframes if key <= start), default=0) for start in starts})
    if not footage.interlaced and (
        footage.height > _MOST_ROWS or not any(_has_combs(footage, start) for start in windows)
    ):
        return None
    return next((order for start in windows for order in _ORDERS if _is_film(footage, start, order)), None)


def _has_combs(footage: Footage, start: int) -> bool:
    """Whether enough pictures from key frame `start` on show rows that are unlike both of their neighbours."""
    combed = [_share_of_combs(_luma(frame)) > _COMBED for _, frame in _decoded(footage, start, _WINDOW // 2)]
    return sum(combed) >= _LEAST_WOVEN * len(combed)


def _share_of_combs(luma: NDArray[Any]) -> float:
    rows = luma[:, ::4].astype(np.int32)
    above, here, below = rows[:-2], rows[1:-1], rows[2:]
    is_comb = ((above - here) * (below - here) > _COMB**2) & (np.abs(above - below) < _COMB)
    return float(is_comb.mean()) if is_comb.size else 0.0


def _is_film(footage: Footage, start: int, order: str) -> bool:
    """Whether the pictures from key frame `start` on are woven and repeated as those of telecined film are."""
    sources: dict[int, int] = {}
    woven, pictures = 0, list[Grey]()
    for number, frame in deinterlaced(_noted(_decoded(footage, start, _WINDOW), sources), order):
        woven += sources.pop(number) != _checksum(frame)
        pictures.append(small(frame))
    moving = [cycle for cycle in _cycles(_changes(pictures)) if median(cycle) >= _STILL]
    repeating = sum(_least(cycle) is not None for cycle in moving)
    if len(moving) < _LEAST_CYCLES or repeating < _LEAST_REPEATING * len(moving):
        return False
    return _LEAST_WOVEN <= woven / len(pictures) <= _MOST_WOVEN


def _decoded(footage: Footage, start: int, count: int | None = None) -> Iterator[tuple[int, VideoFrame]]:
    return islice(frames_from(footage, start, threads=0), count)


def _noted(pictures: Iterator[tuple[int, VideoFrame]], sources: dict[int, int]) -> Iterator[tuple[int, VideoFrame]]:
    for number, frame in pictures:
        sources[number] = _checksum(frame)
        yield number, frame


def _luma(frame: VideoFrame) -> NDArray[Any]:
    """The bytes of brightness, without padding; of deeper samples those of half a row, which suffice to compare."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]


def _checksum(frame: VideoFrame) -> int:
    return crc32(_luma(frame).tobytes())


def _changes(pictures: Iterable[Grey]) -> list[float]:
    """By how much each picture differs from the one before where it differs most, in 8-bit units."""
    changes, before = list[float](), None
    for picture in pictures:
        changes.append(255.0 if before is None else float(np.abs(picture.astype(np.int16) - before).max()))
        before = picture
    return changes


def _cycles(changes: Sequence[float]) -> Iterator[Sequence[float]]:
    for start in range(0, len(changes) - _CYCLE + 1, _CYCLE):
        yield changes[start : start + _CYCLE]


def _least(cycle: Sequence[float]) -> int | None:
    """Which picture of a cycle repeats the one before."""
    least = min(range(len(cycle)), key=cycle.__getitem__)
    rest = [change for at, change in enumerate(cycle) if at != least]
    return least if cycle[least] < _REPEATED * median(rest) else None


def _phases(changes: Sequence[float]) -> list[int | None]:
    """Which picture of each cycle repeats the one before; None if none does. The last cycle may be short.

    A cycle that stands still is like the one before it; one at the start, like the first that moves.
    """
    moving = [_least(cycle) if median(cycle) >= _STILL else _UNKNOWN for cycle in _cycles(changes)]
    phase = next((found for found in moving if found != _UNKNOWN), None)
    phases = []
    for found in moving:
        phase = phase if found == _UNKNOWN else found
        phases.append(phase)
    return [*phases, phase]


def _time(footage: Footage, number: int, phase: int | None) -> int:
    """When the film showed a picture, in ticks, between those of the pictures that were recorded.

    Two film pictures before the repeated one and two after it are an even 1.25 recorded pictures apart; the first one
    after it begins with the second field of the repeated one.
    """
    if phase is None:
        return footage.pts[number]
    first, at = number - number % _CYCLE, number % _CYCLE
    steps = at - phase - (at > phase)
    place = max(Fraction(0), first + phase + Fraction(1, 2) + Fraction(_CYCLE, _KEPT) * steps)
    before = min(int(place), footage.num_frames - 1)
    return round(footage.pts[before] + (place - before) * footage.durations[before])
