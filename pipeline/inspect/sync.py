"""Synchrony of picture and sound.

Motion events (bounces) are matched one to one with sound onsets. A score means nothing alone: frequent events match by
chance, so every figure is accompanied by the same figure with the sound shifted against the picture.

Offsets are signed: above 0 the sound comes late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOLERANCE_S = 0.0625
"""One frame at 16 fps; within it the order cannot be perceived."""
STRICT_TOLERANCE_S = 0.04
"""The largest lead of the sound that EBU R37 allows; it allows a delay of 60 ms."""

_CHANCE_SHIFTS = 12
_LEAST_SHIFT_S = 0.5
_GOLDEN = (sqrt(5) - 1) / 2
_SLOPE_POINTS = 600
_MAD_TO_SIGMA = 1.4826
_MS_PER_MIN = 60_000.0  # converts a slope in seconds per second

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Sync:
    """Motion events matched with sound onsets.

    Args:
        tolerance_s: how far apart a pair may be.
        num_events: motion events.
        num_onsets: sound onsets.
        pairs: matched (event, onset) times in seconds, in order.
        f1: 2 pairs / (events + onsets); 1 without events and onsets, since silence matches a still picture.
        offset_s: median of onset - event; None without pairs.
        median_abs_s: median of |onset - event|; None without pairs.
        mad_s: median absolute deviation from `offset_s`; None without pairs.
        slope_ms_per_min: growth of the offset over the film (Theil, 1950; Sen, 1968); None below 3 pairs.
        slope_error_ms_per_min: standard error of the slope if offsets scatter randomly around `offset_s`.
        chance_f1: the mean F1 with the sound shifted cyclically by more than half a second; None without the film's
            duration, and for films too short to shift.
    """

    tolerance_s: float
    num_events: int
    num_onsets: int
    pairs: tuple[tuple[float, float], ...]
    f1: float
    offset_s: float | None
    median_abs_s: float | None
    mad_s: float | None
    slope_ms_per_min: float | None
    slope_error_ms_per_min: float | None
    chance_f1: float | None


def match(
    events_s: ArrayLike, onsets_s: ArrayLike, tolerance_s: float = TOLERANCE_S, duration_s: float | None = None
) -> Sync:
    """Match events with onsets: the largest number of pairs, and among such matchings the smallest sum of offsets.

    Args:
        events_s: times of motion events, seconds, in any order.
        onsets_s: times of sound onsets, seconds, in any order.
        duration_s: the film's duration, for the chance control.
    """
    events, onsets = _sorted(events_s), _sorted(onsets_s)
    pairs = _pairs(events, onsets, tolerance_s)
    times = np.array([event for event, _ in pairs])
    offsets = np.array([onset - event for event, onset in pairs])
    middle = float(np.median(offsets)) if len(pairs) else None
    return Sync(
        tolerance_s=tolerance_s,
        num_events=len(events),
        num_onsets=len(onsets),
        pairs=tuple(pairs),
        f1=_f1(len(pairs), len(events), len(onsets)),
        offset_s=middle,
        median_abs_s=float(np.median(np.abs(offsets))) if len(pairs) else None,
        mad_s=None if middle is None else float(np.median(np.abs(offsets - middle))),
        slope_ms_per_min=slope_ms_per_min(times, offsets),
        slope_error_ms_per_min=_slope_error(times, offsets),
        chance_f1=None if duration_s is None else _chance_f1(events, onsets, tolerance_s, duration_s),
    )


def merged(times_s: ArrayLike, within_s: float) -> Times:
    """The first time of each cluster of times closer than `within_s`.

    A hit in a corner hits two walls at once, which looks and sounds like one hit.
    """
    times = _sorted(times_s)
    kept: list[float] = []
    for time in times.tolist():
        if not kept or time - kept[-1] >= within_s:
            kept.append(time)
    return np.array(kept)


def slope_ms_per_min(times_s: Times, offsets_s: Times) -> float | None:
    """The median slope over all pairs of points (Theil-Sen); long films are first reduced to medians of neighbours."""
    if len(times_s) < 3:
        return None
    groups = np.array_split(np.arange(len(times_s)), min(len(times_s), _SLOPE_POINTS))
    times = np.array([np.median(times_s[group]) for group in groups])
    offsets = np.array([np.median(offsets_s[group]) for group in groups])
    early, late = np.triu_indices(len(times), k=1)
    apart = times[late] - times[early]
    far = apart > 0
    if not far.any():
        return None
    return float(np.median((offsets[late] - offsets[early])[far] / apart[far])) * _MS_PER_MIN


def _slope_error(times_s: Times, offsets_s: Times) -> float | None:
    if len(times_s) < 3 or not times_s.std():
        return None
    sigma = _MAD_TO_SIGMA * float(np.median(np.abs(offsets_s - np.median(offsets_s))))
    return float(sigma / times_s.std() / sqrt(len(times_s))) * _MS_PER_MIN


def lag_s(events_s: ArrayLike, onsets_s: ArrayLike, reach_s: float = 0.5, width_s: float = 0.02) -> float | None:
    """The offset, up to `reach_s`, at which most onsets coincide with events; detects delays too large to match.

    It is the mean of the densest `2 * width_s` among all offsets between an event and an onset; None without any.
    """
    events, onsets = _sorted(events_s), _sorted(onsets_s)
    first = np.searchsorted(onsets, events - reach_s)
    last = np.searchsorted(onsets, events + reach_s, side="right")
    near = [onsets[low:high] - event for event, low, high in zip(events, first, last, strict=True)]
    offsets = np.sort(np.concatenate(near)) if near else np.empty(0)
    if not len(offsets):
        return None
    crowd = np.searchsorted(offsets, offsets + 2 * width_s, side="right") - np.arange(len(offsets))
    best = int(np.argmax(crowd))
    return float(np.mean(offsets[best : best + crowd[best]]))


def _sorted(times_s: ArrayLike) -> Times:
    return np.sort(np.asarray(times_s, dtype=np.float64).reshape(-1))


def _f1(num_pairs: int, num_events: int, num_onsets: int) -> float:
    return 2 * num_pairs / (num_events + num_onsets) if num_events + num_onsets else 1.0


def _chance_f1(events: Times, onsets: Times, tolerance_s: float, duration_s: float) -> float | None:
    range_s = duration_s - 2 * _LEAST_SHIFT_S
    if range_s <= 0:
        return None
    # Multiples of the golden ratio, so that the shifts cannot all be multiples of the film's own rhythm.
    shifts = [_LEAST_SHIFT_S + range_s * ((number * _GOLDEN) % 1) for number in range(1, _CHANCE_SHIFTS + 1)]
    scores = []
    for shift in shifts:
        shifted = np.sort((onsets + shift) % duration_s)
        scores.append(_f1(len(_pairs(events, shifted, tolerance_s)), len(events), len(onsets)))
    return float(np.mean(scores))


def _pairs(events: Times, onsets: Times, tolerance_s: float) -> list[tuple[float, float]]:
    """Clusters of times that are further apart than the tolerance are matched independently."""
    times = np.concatenate((events, onsets))
    order = np.argsort(times, kind="stable")
    sorted_times, is_event = times[order], order < len(events)
    # Rounding must not separate a pair that is exactly the tolerance apart.
    borders = np.flatnonzero(np.diff(sorted_times) > tolerance_s * (1 + 1e-9)) + 1
    pairs: list[tuple[float, float]] = []
    for start, stop in pairwise([0, *borders.tolist(), len(times)]):
        own, kind = sorted_times[start:stop], is_event[start:stop]
        if kind.any() and not kind.all():
            pairs += _best_pairs(own[kind].tolist(), own[~kind].tolist(), tolerance_s)
    return pairs


def _best_pairs(events: Sequence[float], onsets: Sequence[float], tolerance_s: float) -> list[tuple[float, float]]:
    """Dynamic programming over prefixes: for points on a line, one of the best matchings has no crossing pairs.

    A pair is worth more than all offsets together, so the number of pairs comes first and the offsets second.
    """
    worth = 1 + tolerance_s * (len(events) + len(onsets))
    best = np.zeros((len(events) + 1, len(onsets) + 1))
    for i, event in enumerate(events):
        for j, onset in enumerate(onsets):
            apart = abs(onset - event)
            paired = best[i, j] + worth - apart if apart <= tolerance_s * (1 + 1e-9) else -1.0
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], paired)
    pairs, i, j = [], len(events), len(onsets)
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((events[i], onsets[j]))
    return pairs[::-1]
