"""Clicks where two chunks' sounds meet.

A click is short, so it reaches up to the highest frequencies, where most sounds hold little: what lies above a quarter
of the sample rate is compared with that around it. A hit that happens to fall on a border may reach as far, so as many
places between the borders are listened to for comparison.

Shapes: c channels, n samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.windows import SoundWindow

Array = NDArray[np.float64]

CLICK_Z = 50.0
"""Hits of the world of sounding shapes stay below 45 through AAC; a click of 2 % of full scale gives 450."""
_NEAR_S, _AROUND_S = 0.005, 0.1
_STEP_S = 0.02
_MAD_TO_SIGMA = 1.4826
_LEAST_LEVEL = 2e-5  # full scale; -94 dB, what quiet sound is taken to hold at least


@dataclass(frozen=True)
class Clicks:
    """What is heard at chunk borders, against places inside the chunks.

    Args:
        count: borders listened to.
        clicks: borders with high frequencies above `CLICK_Z` robust deviations within 5 ms.
        clicks_inside: places inside with one, per border.
        step_db: median change in level over 20 ms across a border.
        step_inside_db: the same inside.
        worst_z: the most at a border, in robust deviations.
        worst_s: when.
    """

    count: int
    clicks: int
    clicks_inside: float
    step_db: float
    step_inside_db: float
    worst_z: float
    worst_s: float


class ClickMeter:
    """Listens to chunk borders as the sound streams by.

    Args:
        borders_s: when chunks begin, seconds.
        changes_s: those of them that open a scene, where the sound may begin anew.
    """

    def __init__(self, borders_s: Sequence[float], changes_s: Sequence[float] = ()) -> None:
        times = np.asarray(borders_s, dtype=np.float64)
        self._borders = times[~np.isin(times, changes_s)]
        lengths = np.diff(times, prepend=0.0)
        self._inside = np.concatenate([times - share * lengths for share in (0.3, 0.7)])
        self._heard: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}

    def take(self, window: SoundWindow) -> None:
        """Listen to the next window."""
        for at_border, places in ((True, self._borders), (False, self._inside)):
            samples = np.round(places * window.rate).astype(np.int64)
            for sample in samples[(samples >= window.core.start) & (samples < window.core.stop)].tolist():
                heard = _listen(window, sample - window.start)
                if heard is not None:
                    self._heard[at_border].append((sample / window.rate, *heard))

    def clicks(self) -> Clicks | None:
        """What was heard; None without a border."""
        if not self._heard[True]:
            return None
        borders, inside = np.array(self._heard[True]), np.array(self._heard[False] or [(0.0, 0.0, 0.0)])
        worst = borders[borders[:, 1].argmax()]
        return Clicks(
            count=len(borders),
            clicks=int((borders[:, 1] > CLICK_Z).sum()),
            clicks_inside=float((inside[:, 1] > CLICK_Z).mean()),
            step_db=float(np.median(borders[:, 2])),
            step_inside_db=float(np.median(inside[:, 2])),
            worst_z=float(worst[1]),
            worst_s=float(worst[0]),
        )


def _listen(window: SoundWindow, at: int) -> tuple[float, float] | None:
    """How much of a click is within 5 ms of a place, in robust deviations, and the step in level there."""
    around, near, step = (round(seconds * window.rate) for seconds in (_AROUND_S, _NEAR_S, _STEP_S))
    start = at - around
    if start < 0 or at + around > window.samples.shape[1]:
        return None
    loudest = max((_click_z(channel[start : at + around], near) for channel in window.samples), default=0.0)
    mono = window.mono()
    return loudest, abs(_level_db(mono[at : at + step]) - _level_db(mono[at - step : at]))


def _click_z(sound: NDArray[np.float32], near: int) -> float:
    """The largest value near the middle of the upper half of the spectrum, in robust deviations of the rest."""
    spectrum = np.fft.rfft(sound.astype(np.float64) * np.hanning(len(sound)))
    spectrum[: len(spectrum) // 2] = 0
    high, middle, edge = np.abs(np.fft.irfft(spectrum, len(sound))), len(sound) // 2, len(sound) // 8
    spread = _MAD_TO_SIGMA * float(np.median(high[edge:-edge]))
    return float(high[middle - near : middle + near].max() / max(spread, _LEAST_LEVEL))


def _level_db(sound: Iterable[float]) -> float:
    return float(10 * np.log10(np.mean(np.square(np.asarray(sound))) + 1e-9))
