"""Hits (to a fraction of a frame), speed and jumps of an object, from the position of its centre in every frame.

A hit reverses one coordinate from one frame to the next; between hits the path is straight. The time of a hit is
therefore the point where the straight lines before and after it cross. Codecs and generators round the corner off and
add jitter, so frames next to a turn are left out of the fit. Whether a path bounces off walls or glides in curves is
decided by all turns within two seconds together: whether lines or waves fit them better.
Frame i shows the instant (i + 0.5) / fps, the middle of its time on the screen.

Shapes: f frames, two axes (x right, y down), in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TELEPORT_PX = 8.0
_LEAST_SWING_PX = 0.8  # a smaller reversal is noise
_LEAST_SLOPE = 0.15  # pixels per frame; a slower reversal is not a turn
_SMOOTH_FRAMES = 5  # moving average that suppresses jitter before turns are located
_FIT_FRAMES = 16  # on either side of a turn, at most to the next one
_ROUND_FRAMES = 1.5  # on either side of a turn, where the corner may be rounded off
_SHARP_FRAMES = 4  # on either side of a turn with a sharp corner
_SHARP_PX = 0.1  # largest RMS distance from two lines for a sharp corner
_NEAR_FRAMES = 32  # turns this near are judged together
_WAVES = np.arange(0.05, 0.31, 0.025)  # radians per frame: periods of 21 to 126 frames
_LAG = 4  # frames over which speed and heading are taken; a codec's latent, within which steps are uneven

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Track:
    """The motion of one object.

    Args:
        hits_s: times at which one coordinate reverses, ascending; a corner is two hits.
        jumps: frames whose centre lies more than `TELEPORT_PX` from that of the frame before; breaks do not count.
        speeds: pixels per second around each frame [f]; NaN next to a hit and where nothing was detected.
        bends: change of heading around each frame [f], in radians per second, clockwise above 0; NaN likewise.
            Signed, so that a straight path with jitter has a median of about 0.
    """

    hits_s: Array
    jumps: tuple[int, ...]
    speeds: Array
    bends: Array


def follow(middles: Array, fps: float, breaks: Sequence[int] = ()) -> Track:
    """The track of centres [f 2], NaN where nothing was detected; `breaks` are the first frames after cuts."""
    steps = np.linalg.norm(np.diff(middles, axis=0), axis=1)
    jumps = np.setdiff1d(np.flatnonzero(steps > TELEPORT_PX) + 1, np.asarray(breaks, dtype=np.int64))
    hits: list[float] = []
    speeds, bends = np.full(len(middles), np.nan), np.full(len(middles), np.nan)
    for start, stop in _runs(middles, {*jumps.tolist(), *breaks}):
        turns = _hits([turn for axis in (0, 1) for turn in _queue(middles[start:stop, axis])])
        _fill(speeds[start:stop], _speeds(middles[start:stop], turns) * fps)
        _fill(bends[start:stop], _bends(middles[start:stop], turns) * fps / _LAG)
        hits += (turns + start).tolist()
    return Track((np.sort(hits) + 0.5) / fps, tuple(jumps.tolist()), speeds, bends)


def _runs(middles: Array, breaks: set[int]) -> Iterator[tuple[int, int]]:
    """Spans of frames in which the object is visible and moves without a break."""
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


@dataclass(frozen=True)
class _Turn:
    """The frame at which one coordinate reverses, and the residuals of two lines and of a wave, pixels squared."""

    frame: float
    from_lines: float
    from_wave: float


def _hits(turns: Sequence[_Turn]) -> Array:
    """Frames of those turns that are hits, ascending: among the turns near them, lines fit better than waves."""
    frames = np.array([turn.frame for turn in turns])
    sharper = np.array([turn.from_wave - turn.from_lines for turn in turns])
    near = np.abs(frames[:, None] - frames) <= _NEAR_FRAMES
    return np.sort(frames[(near * sharper).sum(axis=1) >= 0])


def _queue(path: Array) -> list[_Turn]:
    """The turns of one coordinate [f]."""
    extremes = _swings(_evened(path))
    borders = [0, *extremes, len(path) - 1]
    found = [_turn(path, *borders[i : i + 3]) for i in range(len(extremes))]
    return [turn for turn in found if turn is not None]


def _evened(path: Array) -> Array:
    if len(path) < _SMOOTH_FRAMES:
        return path
    padded = np.pad(path, _SMOOTH_FRAMES // 2, mode="reflect", reflect_type="odd")
    return np.convolve(padded, np.full(_SMOOTH_FRAMES, 1 / _SMOOTH_FRAMES), mode="valid")


def _swings(path: Array) -> list[int]:
    """Frames at which the coordinate reverses and then returns by at least the smallest swing (zigzag)."""
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


def _turn(path: Array, before: int, turn: int, after: int) -> _Turn | None:
    """The turn between two others; None if the lines before and after it do not cross there."""
    first, last = before + (before > 0), after - (after < len(path) - 1)  # the neighbouring turns may be rounded too
    frames = np.arange(max(first, turn - _FIT_FRAMES), min(last, turn + _FIT_FRAMES) + 1)
    crossing = _crossing(path, frames, turn, _ROUND_FRAMES)
    if crossing is None:
        return None
    near = np.concatenate(_sides(frames, crossing, _ROUND_FRAMES))
    away = near.astype(np.float64) - crossing
    from_lines = float(_residuals(_lines(away), path[near]))
    from_wave = float(_residuals(_waves(away), path[near]).min())
    sharp = _sharp_crossing(path, frames, turn)
    return _Turn(crossing if sharp is None else sharp, from_lines, from_wave)


def _sharp_crossing(path: Array, frames: NDArray[np.int64], turn: int) -> float | None:
    """The time of a sharp turn, fitted to near frames only, since the speed may differ further away; else None."""
    near = frames[np.abs(frames - turn) <= _SHARP_FRAMES]
    crossing = _crossing(path, near, turn, gap=0)
    if crossing is None:
        return None
    off_px = np.sqrt(_residuals(_lines(near.astype(np.float64) - crossing), path[near]) / len(near))
    return crossing if off_px < _SHARP_PX else None


def _crossing(path: Array, frames: NDArray[np.int64], turn: int, gap: float) -> float | None:
    """Where the lines before and after a turn cross, each fitted to the frames at least `gap` away."""
    crossing = float(turn)
    for _ in range(3):  # the crossing decides which frames belong to which line, so iterate
        left, right = _sides(frames, crossing, gap)
        if min(len(left), len(right)) < 2:
            return None
        (slope_a, start_a), (slope_b, start_b) = (_line(part, path[part]) for part in (left, right))
        if slope_a * slope_b >= 0 or min(abs(slope_a), abs(slope_b)) < _LEAST_SLOPE:
            return None
        crossing = float((start_b - start_a) / (slope_a - slope_b))
        if abs(crossing - turn) > 2 * _ROUND_FRAMES:
            return None
    return crossing


def _sides(frames: NDArray[np.int64], crossing: float, gap: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames on both sides of a turn; frames in the gap are used only if few others are left."""
    left, right = frames[frames <= crossing - gap], frames[frames >= crossing + gap]
    return (
        left if len(left) > 2 else frames[frames < crossing],
        right if len(right) > 2 else frames[frames > crossing],
    )


def _lines(away: Array) -> Array:
    """Two lines that meet at 0: three parameters, as many as a wave of known length."""
    return np.stack([np.ones(len(away)), np.minimum(away, 0), np.maximum(away, 0)], axis=1)


def _waves(away: Array) -> Array:
    """A sine and a cosine of every frequency around a level [waves n 3]."""
    phases = _WAVES[:, None] * away
    return np.stack([np.ones_like(phases), np.cos(phases), np.sin(phases)], axis=-1)


def _line(frames: NDArray[np.int64], values: Array) -> tuple[float, float]:
    """Slope and value at frame 0 of the line of least squares through values [n]."""
    away = frames - frames.mean()
    slope = float(away @ values / (away @ away))
    return slope, float(values.mean() - slope * frames.mean())


def _residuals(bases: Array, values: Array) -> Array:
    """What least squares leave of values [n] for each basis [... n 3], squared and summed [...]."""
    spans, _ = np.linalg.qr(bases)
    fitted = np.einsum("...nk,...k->...n", spans, np.einsum("...nk,n->...k", spans, values))
    return np.asarray(np.square(fitted - values).sum(axis=-1))


def _speeds(middles: Array, turns: Array) -> Array:
    """Pixels per frame [f - lag], over every lag; NaN where a turn lies inside."""
    lags = middles[_LAG:] - middles[:-_LAG]
    speeds = np.linalg.norm(lags, axis=1) / _LAG
    return np.where(_free(len(speeds), _LAG, turns), speeds, np.nan)


def _bends(middles: Array, turns: Array) -> Array:
    """Radians between the headings of adjacent lags [f - 2 lag]; NaN where a turn lies inside."""
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
    """Write lagged values to the frames in the middle of their lags."""
    start = (len(target) - len(values)) // 2
    if len(values):
        target[start : start + len(values)] = values
