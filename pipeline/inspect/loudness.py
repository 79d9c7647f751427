"""Loudness by ITU-R BS.1770-4, streamed.

The K-weighting is torchaudio's. The response of its filters decays within a window's margin, so windows give the same
result as the whole. The filters clip at full scale, so the sound is attenuated before and amplified after.

Shapes: c channels, n samples, t steps of 100 ms.
"""

from dataclasses import dataclass
from math import log10, sqrt

import numpy as np
import torch
from einops import reduce
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.functional import highpass_biquad, resample, treble_biquad

from longtake.pipeline.inspect.windows import SoundWindow

Array = NDArray[np.float64]

STEP_S = 0.1
_BLOCK_STEPS = 4  # gating blocks of 400 ms that overlap by three quarters
_OFFSET_DB = -0.691
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0
_CHANNEL_WEIGHTS = (1.0, 1.0, 1.0, 1.41, 1.41)
_HEADROOM = 16.0
_OVERSAMPLING = 4
_TINY = 1e-12


@dataclass(frozen=True)
class Loudness:
    """Loudness and peaks of a film.

    Args:
        integrated_lufs: gated loudness of the whole film; None if nothing passes the gate.
        true_peak_db: highest peak including those between samples (4x oversampled), in dBFS; None for silence.
        clipped: samples at full scale next to another one at full scale.
        steps_db: K-weighted level of every 100 ms [t], -120 for silence.
    """

    integrated_lufs: float | None
    true_peak_db: float | None
    clipped: int
    steps_db: NDArray[np.float32]


class LoudnessMeter:
    """Measures the loudness of consecutive windows."""

    def __init__(self) -> None:
        self._powers: list[Array] = []
        self._peak = 0.0
        self._clipped = 0

    def add(self, window: SoundWindow) -> None:
        """Measure the next window; its rate must be a multiple of 10 Hz."""
        sound = torch.from_numpy(window.samples)
        first, last = window.core.start - window.start, window.core.stop - window.start
        step = round(STEP_S * window.rate)
        weighted = k_weighted(sound.double(), window.rate)[:, first:last]
        whole = weighted[:, : weighted.shape[1] // step * step]
        weights = torch.tensor(_CHANNEL_WEIGHTS[: len(sound)], dtype=torch.float64)
        power = weights @ reduce(whole.square(), "c (t step) -> c t", "mean", step=step)
        self._powers.append(power.numpy())
        self._peak = max(self._peak, _true_peak(sound, first, last))
        self._clipped += _clipped(sound[:, first:last])

    def loudness(self) -> Loudness:
        """The result so far."""
        powers = np.concatenate(self._powers) if self._powers else np.empty(0)
        return Loudness(
            integrated_lufs=_integrated(powers),
            true_peak_db=20 * log10(self._peak) if self._peak > 1e-6 else None,
            clipped=self._clipped,
            steps_db=(_OFFSET_DB + 10 * np.log10(powers + _TINY)).astype(np.float32),
        )


def k_weighted(sound: Tensor, rate: int) -> Tensor:
    """K-weighted sound [c n]: a high shelf that models the head, then a high pass."""
    shelved = treble_biquad(sound / _HEADROOM, rate, gain=4.0, central_freq=1500.0, Q=1 / sqrt(2))
    weighted: Tensor = highpass_biquad(shelved, rate, cutoff_freq=38.0, Q=0.5) * _HEADROOM
    return weighted


def _integrated(powers: Array) -> float | None:
    """Loudness of the blocks above -70 LUFS and above the relative gate, 10 LU below their mean."""
    if len(powers) < _BLOCK_STEPS:
        return None
    blocks = np.convolve(powers, np.full(_BLOCK_STEPS, 1 / _BLOCK_STEPS), mode="valid")
    levels = _OFFSET_DB + 10 * np.log10(blocks + _TINY)
    loud = blocks[levels > _ABSOLUTE_GATE]
    if not len(loud):
        return None
    gate = _OFFSET_DB + 10 * log10(loud.mean()) + _RELATIVE_GATE
    return _OFFSET_DB + 10 * log10(blocks[levels > max(gate, _ABSOLUTE_GATE)].mean())


def _true_peak(sound: Tensor, first: int, last: int) -> float:
    """The highest peak in the core, between samples too (BS.1770-4, annex 2)."""
    if not sound.numel():
        return 0.0
    between = resample(sound, 1, _OVERSAMPLING)[:, first * _OVERSAMPLING : last * _OVERSAMPLING]
    return float(between.abs().max())


def _clipped(sound: Tensor) -> int:
    full = sound.abs() >= 1 - 2**-15
    neighbour_full = torch.zeros_like(full)
    neighbour_full[:, 1:] |= full[:, :-1]
    neighbour_full[:, :-1] |= full[:, 1:]
    return int((full & neighbour_full).sum())
