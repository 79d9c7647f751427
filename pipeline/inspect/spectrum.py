"""A spectrogram of the film's sound, of fixed size however long the film is.

Shapes: n samples, b bands, t columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.windows import SoundWindow

Array = NDArray[np.float64]

_COLUMNS, _BANDS = 1000, 72
_LOWEST_HZ = 60.0
_WIDTH_S, _HOP_S = 0.064, 0.016
DETAIL_S = 16.0


@dataclass(frozen=True)
class Spectrum:
    """The spectrogram, and the waveform of the first seconds.

    Args:
        seconds: duration of the sound.
        bands_hz: the centre of every band [b].
        power_db: mean power by band and column [b t].
        detail: the mean of all channels over the first `DETAIL_S` [n].
        rate: samples per second.
    """

    seconds: float
    bands_hz: Array
    power_db: Array
    detail: NDArray[np.float32]
    rate: int


class SpectrumMeter:
    """Accumulates the spectrogram window by window.

    Args:
        seconds: approximate duration of the sound.
        rate: samples per second.
    """

    def __init__(self, seconds: float, rate: int) -> None:
        self._seconds, self._rate = max(seconds, 1e-3), rate
        self._width = 1 << round(np.log2(_WIDTH_S * rate))
        self._bands_hz: Array = np.geomspace(_LOWEST_HZ, rate / 2, _BANDS)
        self._weights = _bands(self._bands_hz, np.fft.rfftfreq(self._width, 1 / rate).astype(np.float64))
        self._columns = min(_COLUMNS, max(1, int(self._seconds / _HOP_S)))
        self._power = np.zeros((_BANDS, self._columns))
        self._counts = np.zeros(self._columns)
        self._detail: list[NDArray[np.float32]] = []

    def add(self, window: SoundWindow) -> None:
        """Add the next window."""
        mono = window.mono()
        first, last = window.core.start - window.start, window.core.stop - window.start
        if window.core.start < DETAIL_S * self._rate:
            self._detail.append(mono[first:last].astype(np.float32))
        starts = np.arange(first, last, round(_HOP_S * self._rate))
        padded = np.pad(mono, self._width // 2)
        pieces = np.lib.stride_tricks.sliding_window_view(padded, self._width)[starts]
        power = np.abs(np.fft.rfft(pieces * np.hanning(self._width), axis=1)) ** 2
        times_s = (starts + window.start) / self._rate
        columns = np.minimum((times_s / self._seconds * self._columns).astype(int), self._columns - 1)
        np.add.at(self._power.T, columns, power @ self._weights.T)
        np.add.at(self._counts, columns, 1)

    def spectrum(self) -> Spectrum:
        """The spectrogram so far."""
        mean = self._power / np.maximum(self._counts, 1)
        detail = np.concatenate(self._detail) if self._detail else np.zeros(0, dtype=np.float32)
        return Spectrum(
            seconds=self._seconds,
            bands_hz=self._bands_hz,
            power_db=10 * np.log10(mean / self._width + 1e-10),
            detail=detail[: round(DETAIL_S * self._rate)],
            rate=self._rate,
        )


def _bands(middles_hz: Array, bins_hz: Array) -> Array:
    """Triangular filters over the logarithm of frequency, each of sum 1; a band between two bins uses the nearest."""
    step = np.log(middles_hz[1] / middles_hz[0])
    away = np.abs(np.log(np.maximum(bins_hz, 1.0)) - np.log(middles_hz)[:, None]) / step
    weights = np.maximum(0.0, 1.0 - away)
    weights[np.arange(len(middles_hz)), away.argmin(axis=1)] += 1e-3
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
