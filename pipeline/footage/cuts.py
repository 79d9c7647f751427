"""Cuts: frames that begin a new scene, found in one pass over small grey pictures.

A frame is a cut if its brightness differs from the frame before it by more than a threshold, and by several times the
median of its neighbourhood, which excludes fast motion and shaky cameras. The picture before it must not return within
a few frames, which excludes flashes. Only a few small pictures are held, so memory does not grow with the footage.

Shapes: h w pixels of a small picture.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from longtake.pipeline.footage.pictures import check_frame, frames_from
from longtake.pipeline.footage.values import Footage

WIDTH, HEIGHT = 48, 27
"""Of the small pictures."""

NEIGHBOURS = 8
"""Differences on either side of a frame that are its neighbourhood."""

RATIO = 3.0
"""How many times the neighbourhood's median a cut's difference is, at least."""

FLASH_FRAMES = 2
"""A flash is no longer than this."""

RULE = 1
"""Counts up when the rule changes, so that cuts found by another rule are searched again."""

_AREA_SCALER = int(Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT)

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class _SmallFrame:
    number: int
    picture: Grey
    difference: float  # from the picture before, in 0..1


def small_pictures(footage: Footage, frames: range) -> Iterator[tuple[int, Grey]]:
    """Small grey pictures of `frames`, each with its number; those that do not decode are left out.

    Raises `MediaError` for a picture of another size than the first, before any of the work is done.
    """
    if not frames:
        return
    start = max((key for key in footage.keyframes if key <= frames.start), default=0)
    for number, frame in frames_from(footage, start, threads=0):
        if number in frames:
            check_frame(footage, number, frame)
            small = frame.reformat(width=WIDTH, height=HEIGHT, format="gray", interpolation=_AREA_SCALER)
            yield number, small.to_ndarray().astype(np.uint8, copy=False)
            if number == frames.stop - 1:
                return


def find_cuts(pictures: Iterable[tuple[int, Grey]], threshold: float) -> Iterator[int]:
    """The numbers of frames that begin a new scene, in order; the first frame is not among them.

    Args:
        pictures: numbers of frames, in order, with their pictures: uint8 [h w], brightness, of any small size.
        threshold: mean difference of brightness, in 0..1, that a cut exceeds.
    """
    window: deque[_SmallFrame] = deque(maxlen=2 * NEIGHBOURS + 1)
    for seen in _compared(pictures):
        window.append(seen)
        at = len(window) - 1 - NEIGHBOURS
        if at >= 0 and _is_cut(list(window), at, threshold):
            yield window[at].number
    for at in range(max(0, len(window) - NEIGHBOURS), len(window)):
        if _is_cut(list(window), at, threshold):
            yield window[at].number


def _compared(pictures: Iterable[tuple[int, Grey]]) -> Iterator[_SmallFrame]:
    before: Grey | None = None
    for number, picture in pictures:
        yield _SmallFrame(number, picture, 0.0 if before is None else _difference(before, picture))
        before = picture


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


def _difference(one: Grey, other: Grey) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean()) / 255
