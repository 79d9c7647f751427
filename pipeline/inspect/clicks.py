"""Clicks where the sound of two chunks meets.

A click is short, so its spectrum reaches the highest frequencies, where most sounds have little energy. The meter
therefore keeps only what lies above a quarter of the sample rate and compares each border with its surroundings. A hit
that falls on a border by chance may reach as high, so places inside the chunks are measured as a control.

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
_LEAST_LEVEL = 2e-5  # full scale; -94 dB, the noise floor assumed for quiet sound


@dataclass(frozen=True)
class Clicks:
    """Clicks at chunk borders, compared with places inside the chunks.

    Args:
        count: borders measured.
        clicks: borders with high frequencies above `CLICK_Z` robust deviations within 5 ms.
        clicks_inside: share of the places inside the chunks that have a click.
        step_db: median change in level over 20 ms across a border.
        step_inside_db: the same for places inside the chunks.
        worst_z: the largest value at a border, in robust deviations.
        worst_s: the time of that border, in seconds.
    """

    count: int
    clicks: int
    clicks_inside: float
    step_db: float
    step_inside_db: float
    worst_z: float
    worst_s: float


class ClickMeter:
    """Measures clicks at chunk borders while the sound is streamed.

    Args:
        borders_s: start times of chunks, in seconds.
        changes_s: those that also start a scene; they are left out, since the sound may change there on purpose.
    """

    def __init__(self, borders_s: Sequence[float], changes_s: Sequence[float] = ()) -> None:
        times = np.asarray(borders_s, dtype=np.float64)
        self._borders = times[~np.isin(times, changes_s)]
        lengths = np.diff(times, prepend=0.0)
        self._inside = np.concatenate([times - share * lengths for share in (0.3, 0.7)])
        self._found: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}

    def add(self, window: SoundWindow) -> None:
        """Measure the next window."""
        for at_border, places in ((True, self._borders), (False, self._inside)):
            samples = np.round(places * window.rate).astype(np.int64)
            for sample in samples[(samples >= window.core.start) & (samples < window.core.stop)].tolist():
                found = _click_at(window, sample - window.start)
                if found is not None:
                    self._found[at_border].append((sample / window.rate, *found))

    def clicks(self) -> Clicks | None:
        """The result so far; None if no border was measured."""
        if not self._found[True]:
            return None
        borders, inside = np.array(self._found[True]), np.array(self._found[False] or [(0.0, 0.0, 0.0)])
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


def _click_at(window: SoundWindow, at: int) -> tuple[float, float] | None:
    """The strength of a click within 5 ms of sample `at`, in robust deviations, and the step in level there."""
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
