"""Sync and loudness figures in the units of the report."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.footage import AudioMeasures
from longtake.pipeline.inspect.sync import STRICT_TOLERANCE_S, Sync, lag_s, match

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SyncFigures:
    """Synchrony of picture and sound.

    Args:
        events: "bounces" of a shape, timed to a millisecond, or onsets of "motion", timed to a frame.
        f1, chance_f1: F1 within 62.5 ms, and the same with the sound shifted; the `strict` ones within 40 ms.
        offset_ms: median offset of pairs within 62.5 ms, like the next three figures; above 0 the sound is late.
        slope_ms_per_min: growth of the offset over the film.
        slope_error_ms_per_min: standard error of the slope under random scatter.
        lag_ms: the offset, up to half a second, at which most onsets coincide with events.
    """

    events: Literal["bounces", "motion"]
    num_events: int
    num_onsets: int
    f1: float
    chance_f1: float | None
    strict_f1: float
    strict_chance_f1: float | None
    offset_ms: float | None
    median_abs_ms: float | None
    mad_ms: float | None
    slope_ms_per_min: float | None
    slope_error_ms_per_min: float | None
    lag_ms: float | None


@dataclass(frozen=True)
class SoundFigures:
    """Loudness and peaks of the film; the fields are those of `Loudness`."""

    integrated_lufs: float | None
    true_peak_db: float | None
    clipped: int


def sync_figures(sync: Sync, events: Array, onsets: Array, seconds: float, bounces: bool) -> SyncFigures:
    """Figures of a match and of a second, stricter one; `bounces` states what the events are."""
    strict, lag = match(events, onsets, STRICT_TOLERANCE_S, seconds), lag_s(events, onsets)
    return SyncFigures(
        events="bounces" if bounces else "motion",
        num_events=sync.num_events,
        num_onsets=sync.num_onsets,
        f1=sync.f1,
        chance_f1=sync.chance_f1,
        strict_f1=strict.f1,
        strict_chance_f1=strict.chance_f1,
        offset_ms=_ms(sync.offset_s),
        median_abs_ms=_ms(sync.median_abs_s),
        mad_ms=_ms(sync.mad_s),
        slope_ms_per_min=sync.slope_ms_per_min,
        slope_error_ms_per_min=sync.slope_error_ms_per_min,
        lag_ms=_ms(lag),
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def sound_figures(audio: AudioMeasures) -> SoundFigures:
    """Loudness figures of the measured sound."""
    loudness = audio.loudness
    return SoundFigures(loudness.integrated_lufs, loudness.true_peak_db, loudness.clipped)
