"""How something moves, from where its middle is in every frame: hits to the fraction of a frame, speed, jumps.

A hit turns one coordinate round from one frame to the next; in between the path is straight. So the time of a hit is
where the straight lines before and after it cross. A smooth turn, where the path is a parabola, is no hit.
Frame i is taken to show the instant (i + 0.5) / fps, the middle of its time on the screen.

Shapes: f frames, two axes (x right, y down), in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TELEPORT_PX = 8.0
_LEAST_SWING_PX = 0.8  # what comes back by less is noise
_FIT_FRAMES = 6
_SHARP_FRAMES = 4  # frames on either side that decide whether the turn is sharp
_LAG = 4  # frames over which speed and heading are taken; codecs code so many at once, and steps inside them pulse

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Track:
    """How one thing moved.

    Args:
        hits_s: times at which one coordinate turned round, ascending; a corner is two hits.
        jumps: frames whose middle lies more than `TELEPORT_PX` from that of the frame before, breaks aside.
        speeds: pixels per second around each frame [f], NaN where a hit is too near or nothing was seen.
        bends: radians per second by which the heading changes around each frame [f], clockwise above 0; NaN likewise.
            Signed, so that a straight path that trembles has a median of about 0.
    """

    hits_s: Array
    jumps: tuple[int, ...]
    speeds: Array
    bends: Array


def follow(middles: Array, fps: float, breaks: Sequence[int] = ()) -> Track:
    """The track of middles [f 2], NaN where nothing was seen; `breaks` are frames that follow a cut."""
    steps = np.linalg.norm(np.diff(middles, axis=0), axis=1)
    jumps = np.setdiff1d(np.flatnonzero(steps > TELEPORT_PX) + 1, np.asarray(breaks, dtype=np.int64))
    hits: list[float] = []
    speeds, bends = np.full(len(middles), np.nan), np.full(len(middles), np.nan)
    for start, stop in _runs(middles, {*jumps.tolist(), *breaks}):
        turns = np.sort([turn for axis in (0, 1) for turn in _turns(middles[start:stop, axis])])
        _fill(speeds[start:stop], _speeds(middles[start:stop], turns) * fps)
        _fill(bends[start:stop], _bends(middles[start:stop], turns) * fps / _LAG)
        hits += (turns + start).tolist()
    return Track((np.sort(hits) + 0.5) / fps, tuple(jumps.tolist()), speeds, bends)


def _runs(middles: Array, breaks: set[int]) -> Iterator[tuple[int, int]]:
    """Stretches of frames in which the thing is seen, and goes on where it was."""
    seen = np.isfinite(middles.sum(axis=1))
    start: int | None = None
    for frame, is_seen in enumerate(seen.tolist()):
        if start is not None and (not is_seen or frame in breaks):
            yield start, frame
            start = None
        if is_seen and start is None:
            start = frame
    if start is not None:
        yield start, len(middles)


def _turns(path: Array) -> list[float]:
    """Sharp turns of one coordinate [f], in frames, to their fraction."""
    extremes = _swings(path)
    borders = [0, *extremes, len(path) - 1]
    found = [_sharp_turn(path, *borders[i : i + 3]) for i in range(len(extremes))]
    return [turn for turn in found if turn is not None]


def _swings(path: Array) -> list[int]:
    """Frames at which the coordinate turns round and then goes back by at least the least swing (zigzag)."""
    extremes: list[int] = []
    low = high = 0
    heading = 0
    for frame, value in enumerate(path.tolist()):
        if value > path[high]:
            high = frame
        if value < path[low]:
            low = frame
        if heading >= 0 and path[high] - value >= _LEAST_SWING_PX:
            extremes += [high] if heading or high else []
            heading, low = -1, frame
            high = frame
        elif heading <= 0 and value - path[low] >= _LEAST_SWING_PX:
            extremes += [low] if heading or low else []
            heading, high = 1, frame
            low = frame
    return extremes


def _sharp_turn(path: Array, before: int, turn: int, after: int) -> float | None:
    """Where the lines before and after a turn cross; None if a parabola says it better, or nothing was seen of one."""
    frames = np.arange(max(before, turn - _FIT_FRAMES), min(after, turn + _FIT_FRAMES) + 1)
    left, right = frames[frames < turn], frames[frames > turn]
    if len(left) < 2 or len(right) < 2:
        return None
    crossing = _crossing(path, left, right)
    # The frame of the turn itself lies on one of the two lines, and now it is known on which.
    if crossing is not None:
        left, right = frames[frames <= crossing], frames[frames > crossing]
        if len(left) >= 2 and len(right) >= 2:
            crossing = _crossing(path, left, right)
    if crossing is None or not turn - 2 <= crossing <= turn + 2:
        return None
    return crossing if _is_sharp(path, frames, crossing) else None


def _is_sharp(path: Array, frames: NDArray[np.int64], crossing: float) -> bool:
    near = frames[np.abs(frames - crossing) <= _SHARP_FRAMES]
    # Two lines that meet at a known point have three parameters, as many as a parabola.
    kinked = np.stack([np.ones(len(near)), np.minimum(near - crossing, 0), np.maximum(near - crossing, 0)], axis=1)
    smooth = np.stack([np.ones(len(near)), near - crossing, np.square(near - crossing)], axis=1)
    return _residual(kinked, path[near]) <= _residual(smooth, path[near])


def _crossing(path: Array, left: NDArray[np.int64], right: NDArray[np.int64]) -> float | None:
    (slope_a, start_a), (slope_b, start_b) = (np.polyfit(part, path[part], 1) for part in (left, right))
    return None if slope_a * slope_b >= 0 else float((start_b - start_a) / (slope_a - slope_b))


def _residual(basis: Array, values: Array) -> float:
    weights = np.linalg.lstsq(basis, values)[0]
    return float(np.square(basis @ weights - values).sum())


def _speeds(middles: Array, turns: Array) -> Array:
    """Pixels per frame [f - lag], over every lag; NaN where a turn lies inside."""
    lags = middles[_LAG:] - middles[:-_LAG]
    speeds = np.linalg.norm(lags, axis=1) / _LAG
    return np.where(_free(len(speeds), _LAG, turns), speeds, np.nan)


def _bends(middles: Array, turns: Array) -> Array:
    """Radians between the headings of neighbouring lags [f - 2 lag]; NaN where a turn lies inside."""
    lags = middles[_LAG:] - middles[:-_LAG]
    first, second = lags[:-_LAG], lags[_LAG:]
    cross = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    bends = np.arctan2(cross, (first * second).sum(axis=1))
    return np.where(_free(len(bends), 2 * _LAG, turns), bends, np.nan)


def _free(count: int, lag: int, turns: Array) -> NDArray[np.bool_]:
    starts = np.arange(count)
    turned_before_start = np.searchsorted(turns, starts, side="left")
    turned_before_stop = np.searchsorted(turns, starts + lag, side="right")
    return np.asarray(turned_before_start == turned_before_stop)


def _fill(target: Array, values: Array) -> None:
    """Lay lagged values on the frames in the middle of their lags."""
    start = (len(target) - len(values)) // 2
    if len(values):
        target[start : start + len(values)] = values
