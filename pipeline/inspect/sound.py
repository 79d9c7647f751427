"""Sound onsets.

An onset is a rise of the sound's power between two short adjacent windows. Power is taken in decibels, so that a soft
hit in the tail of a loud one of the same pitch is still a step.

Shapes: c channels, n samples, t steps of one millisecond.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longtake.pipeline.inspect.windows import SoundWindow

_STEPS_PER_S = 1000
_SMOOTH, _REACH = 24, 12  # ms; longer than the beat of two partials that fuse into one tone
_FINE_SMOOTH, _FINE_REACH = 8, 4  # ms; for the exact time of a detected onset
_LEAST_RISE_DB = 2.5
_LEAST_APART = 30  # ms; closer hits are perceived as one
_FLOOR_DB = -40.0  # relative to the loudest moment, which masks everything below
_QUIET_DB = -66.0  # full scale: digital silence and a codec's hiss
_HISS = 8.0  # times the power of the quietest tenth: a continuous sound has no onset

Array = NDArray[np.float64]


def onsets(samples: ArrayLike, rate: int) -> Array:
    """Times in seconds, ascending, at which sounds begin.

    Args:
        samples: [n], or [c n] whose channels are averaged; -1..1. Use windows for sounds longer than a minute, since
            soft sounds are judged relative to the loudest one.
        rate: samples per second.
    """
    sound = np.asarray(samples, dtype=np.float64)
    power = _power(sound.mean(axis=0) if sound.ndim == 2 else sound, rate)
    if len(power) <= 2 * _REACH:
        return np.empty(0)
    peaks = local_maxima(_rise_db(power), _LEAST_APART, _LEAST_RISE_DB)
    slope = _across(np.sqrt(_smooth(power, _FINE_SMOOTH)), _FINE_REACH)
    exact = [_steepest(slope, peak) for peak in peaks.tolist()]
    return (np.array(exact, dtype=np.float64) + 0.5) / _STEPS_PER_S


def window_onsets(window: SoundWindow) -> Array:
    """Onsets in a window's core, in seconds of the film."""
    times = onsets(window.samples, window.rate) + window.start / window.rate
    inside = (times >= window.core.start / window.rate) & (times < window.core.stop / window.rate)
    return times[inside]


def _power(sound: Array, rate: int) -> Array:
    """Mean power of every millisecond [t] of sound [n]."""
    steps = len(sound) * _STEPS_PER_S // rate
    if not steps:
        return np.empty(0)
    borders = np.arange(steps) * rate // _STEPS_PER_S
    return np.asarray(np.add.reduceat(sound**2, borders) / np.diff(np.append(borders, len(sound))))


def _rise_db(power: Array) -> Array:
    """Rise of the power around every millisecond [t], in decibels."""
    smooth = _smooth(power, _SMOOTH)
    hiss = _HISS * float(np.percentile(smooth, 10))
    floor = max(float(smooth.max()) * 10 ** (_FLOOR_DB / 10), 10 ** (_QUIET_DB / 10), hiss)
    return _across(10 * np.log10(smooth + floor), _REACH)


def _smooth(power: Array, width: int) -> Array:
    taper = np.hanning(width + 2)[1:-1]
    padded = np.pad(power, (width // 2, width // 2 - 1), mode="edge")
    return np.maximum(np.convolve(padded, taper / taper.sum(), mode="valid"), 0)


def _across(values: Array, reach: int) -> Array:
    """The difference between the values `reach` after and `reach` before every place."""
    padded = np.pad(values, reach, mode="edge")
    return np.asarray(padded[2 * reach :] - padded[: -2 * reach])


def _steepest(slope: Array, peak: int) -> int:
    start = max(0, peak - _REACH)
    return start + int(slope[start : peak + _REACH + 1].argmax())


def local_maxima(values: Array, reach: int, least: float) -> NDArray[np.int64]:
    """Indices of values [t] above `least` that are the largest within `reach` on both sides; the first of equals."""
    padded = np.pad(values, reach, constant_values=-np.inf)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    peaks = np.flatnonzero((values >= highest) & (values > least))
    apart = np.diff(peaks, prepend=-reach - 1) > reach
    return peaks[apart]
