"""Cuts: frames that begin a new scene, found in one pass over small grey pictures.

Three detectors watch the same pictures:

- *Hard cuts.* The brightness differs from the frame before by more than a threshold, and by several times the median
  of the neighbourhood, which excludes fast motion and shaky cameras. The picture before must not return within a few
  frames, which excludes flashes.
- *Dissolves.* The picture half-way between two unlike pictures is their mixture, half of each. Motion does not mix
  pictures, it moves them. The cut is the middle of the dissolve.
- *Fades.* A plain picture, such as black, is reached and left gradually. The cut is the middle of the plain part.

Only a few small pictures are held, so memory does not grow with the footage.

Shapes: h w pixels of a small picture.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from longtake.pipeline.footage.pictures import check_frame, frames_from, starts
from longtake.pipeline.footage.values import Footage

WIDTH, HEIGHT = 48, 27
"""Of the small pictures."""

THRESHOLD = 0.1
"""The difference of brightness that a cut exceeds, where the user does not set another."""

NEIGHBOURS = 8
"""Differences on either side of a frame that are its neighbourhood."""

RATIO = 3.0
"""How many times the neighbourhood's median a cut's difference is, at least."""

FLASH_FRAMES = 2
"""A flash is no longer than this."""

RULE = 2
"""Counts up when the rule changes, so that cuts found by another rule are searched again."""

_REACHES = (4, 8, 16, 24)  # frames from the middle of a dissolve to the pictures that it mixes
_LEAST_DETAIL = 4.0  # standard deviation of brightness, 8-bit units, of a picture that is not plain
_MOST_ALIKE = 0.6  # correlation of the pictures before and after a dissolve
_LEAST_EXPLAINED = 0.8  # share of the middle picture's variance that the mixture explains
_EVENLY = 0.2  # how far the two weights of the mixture may be from one half
_MOST_STEP = 0.35  # of the whole difference, in one frame; a dissolve of three frames is a cut
_MOST_GAP = 16  # frames that may not look like a mixture within one dissolve
_MOST_PLAIN = 2.5  # standard deviation of brightness, 8-bit units, of a plain picture

_AREA_SCALER = int(Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT)

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class _SmallFrame:
    number: int
    picture: Grey
    difference: float  # from the picture before, in 0..1


class _Finder(Protocol):
    def push(self, frame: _SmallFrame) -> None:
        """Take the next frame."""

    def finish(self) -> Iterable[int]:
        """The cuts of all frames, in any order."""


def small_pictures(footage: Footage, frames: range) -> Iterator[tuple[int, Grey]]:
    """Small grey pictures of `frames`, each with its number; those that do not decode are left out.

    Raises `MediaError` for a picture of another size than the first, before any of the work is done.
    """
    if not frames:
        return
    numbers = {footage.coded_number(number): number for number in reversed(frames)}
    last = max(numbers)
    for start in starts(footage, min(numbers)):
        seen = False
        for coded, frame in frames_from(footage, start, threads=0):
            if coded in numbers:
                check_frame(footage, numbers[coded], frame)
                yield numbers[coded], small(frame)
                seen = True
            if coded == last:
                break
        if seen:
            return


def small(frame: VideoFrame) -> Grey:
    """The small grey picture of a decoded one."""
    grey = frame.reformat(width=WIDTH, height=HEIGHT, format="gray", interpolation=_AREA_SCALER)
    return grey.to_ndarray().astype(np.uint8, copy=False)


def find_cuts(pictures: Iterable[tuple[int, Grey]], threshold: float) -> list[int]:
    """The numbers of frames that begin a new scene, in order; the first frame is not among them.

    Args:
        pictures: numbers of frames, in order, with their pictures: uint8 [h w], brightness, of any small size.
        threshold: mean difference of brightness, in 0..1, that a cut exceeds.
    """
    finders: tuple[_Finder, ...] = (_HardCuts(threshold), _Dissolves(threshold), _Fades(threshold))
    for frame in _compared(pictures):
        for finder in finders:
            finder.push(frame)
    return sorted({cut for finder in finders for cut in finder.finish()})


def _compared(pictures: Iterable[tuple[int, Grey]]) -> Iterator[_SmallFrame]:
    before: Grey | None = None
    for number, picture in pictures:
        yield _SmallFrame(number, picture, 0.0 if before is None else _difference(before, picture))
        before = picture


# ------------------------------------------------------------------ hard cuts


class _HardCuts:
    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._window: deque[_SmallFrame] = deque(maxlen=2 * NEIGHBOURS + 1)
        self._cuts: list[int] = []

    def push(self, frame: _SmallFrame) -> None:
        self._window.append(frame)
        at = len(self._window) - 1 - NEIGHBOURS
        if at >= 0:
            self._judge(at)

    def finish(self) -> Iterable[int]:
        for at in range(max(0, len(self._window) - NEIGHBOURS), len(self._window)):
            self._judge(at)
        return self._cuts

    def _judge(self, at: int) -> None:
        if _is_cut(list(self._window), at, self._threshold):
            self._cuts.append(self._window[at].number)


def _is_cut(window: list[_SmallFrame], at: int, threshold: float) -> bool:
    """Whether the frame at `at` begins a scene; the window holds as many of its neighbours as there are."""
    here = window[at].difference
    if at == 0 or here <= threshold:
        return False
    low = max(0, at - NEIGHBOURS)
    around = [seen.difference for seen in (*window[low:at], *window[at + 1 : at + 1 + NEIGHBOURS])]
    if around and here <= RATIO * median(around):
        return False
    return not _is_flash(window, at, threshold)


def _is_flash(window: list[_SmallFrame], at: int, threshold: float) -> bool:
    """Whether the frame at `at` begins or ends a flash: what lay before it lies behind it."""
    for length in range(1, FLASH_FRAMES + 1):
        for start in (at, at - length):
            before, after = start - 1, start + length
            inside = before >= 0 and after < len(window)
            if inside and _difference(window[before].picture, window[after].picture) <= threshold:
                return True
    return False


# ------------------------------------------------------------------ dissolves


class _Dissolves:
    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._window: deque[_SmallFrame] = deque(maxlen=2 * _REACHES[-1] + 1)
        self._mixed: list[int] = []  # frames of the present dissolve
        self._cuts: list[int] = []

    def push(self, frame: _SmallFrame) -> None:
        self._window.append(frame)
        middle = len(self._window) - 1 - _REACHES[-1]
        if middle >= 0:
            self._judge(middle)

    def finish(self) -> Iterable[int]:
        for middle in range(max(0, len(self._window) - _REACHES[-1]), len(self._window)):
            self._judge(middle)
        self._end()
        return self._cuts

    def _judge(self, middle: int) -> None:
        number = self._window[middle].number
        if any(self._is_mixture(middle, reach) for reach in _REACHES):
            self._mixed.append(number)
        elif self._mixed and number - self._mixed[-1] > _MOST_GAP:
            self._end()

    def _end(self) -> None:
        if len(self._mixed) > 1:
            self._cuts.append(round((self._mixed[0] + self._mixed[-1] + 1) / 2))
        self._mixed = []

    def _is_mixture(self, middle: int, reach: int) -> bool:
        """Whether the picture is half of that `reach` frames before and half of that `reach` frames after."""
        if middle < reach or middle + reach >= len(self._window):
            return False
        before, half, after = (self._window[middle + away].picture for away in (-reach, 0, reach))
        apart = _difference(before, after)
        if apart <= self._threshold:
            return False
        steps = (self._window[at].difference for at in range(middle - reach + 1, middle + reach + 1))
        return max(steps) <= _MOST_STEP * apart and _mixes(before, half, after)


def _mixes(before: Grey, half: Grey, after: Grey) -> bool:
    """Least squares: half = a before + b after, without means; a and b are both about one half."""
    x, m, y = (picture.astype(np.float64).ravel() - picture.mean() for picture in (before, half, after))
    xx, yy, xy, xm, ym, mm = (float(one @ other) for one, other in ((x, x), (y, y), (x, y), (x, m), (y, m), (m, m)))
    if min(xx, yy) <= _LEAST_DETAIL**2 * x.size or xy > _MOST_ALIKE * np.sqrt(xx * yy):
        return False
    scale = xx * yy - xy * xy
    a, b = (xm * yy - ym * xy) / scale, (ym * xx - xm * xy) / scale
    return max(abs(a - 0.5), abs(b - 0.5)) <= _EVENLY and a * xm + b * ym >= _LEAST_EXPLAINED * mm


# ------------------------------------------------------------------ fades


class _Fades:
    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._cuts: list[int] = []
        self._seen_detail = False
        self._start: int | None = None  # of the present run of plain pictures, if it is reached gradually
        self._was_plain = False

    def push(self, frame: _SmallFrame) -> None:
        plain = float(frame.picture.std()) <= _MOST_PLAIN
        hard = frame.difference > self._threshold
        if plain and not self._was_plain:
            self._start = frame.number if self._seen_detail and not hard else None
        elif not plain and self._was_plain and self._start is not None and not hard:
            self._cuts.append((self._start + frame.number) // 2)
        elif hard:
            self._start = None  # from one plain picture to another
        self._seen_detail |= not plain
        self._was_plain = plain

    def finish(self) -> Iterable[int]:
        return self._cuts


def _difference(one: Grey, other: Grey) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean()) / 255
