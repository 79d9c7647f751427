"""Sync and sound in the units that people read."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.footage import Hearing
from longtake.pipeline.inspect.sync import STRICT_TOLERANCE_S, Sync, lag_s, match

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SyncFigures:
    """Picture against sound.

    Args:
        events: "bounces" of a shape, timed to a millisecond, or where "motion" sets in, to a frame.
        f1, chance_f1: within 62.5 ms, and the same with the sound shifted; `strict` ones within 40 ms.
        offset_ms: median; above 0 the sound is late. Among pairs within 62.5 ms, like the next three.
        slope_ms_per_min: how the offset grows.
        slope_error_ms_per_min: its standard error, were offsets scattered by chance.
        lag_ms: the one offset up to half a second at which most onsets meet events.
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
    """How loud it is; see `Loudness`."""

    integrated_lufs: float | None
    true_peak_db: float | None
    clipped: int


def sync_figures(sync: Sync, events: Array, onsets: Array, seconds: float, bounces: bool) -> SyncFigures:
    """Put a match into figures, with a stricter one beside it; `bounces` tells what the events are."""
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


def sound_figures(hearing: Hearing) -> SoundFigures:
    """How loud what was heard is."""
    loudness = hearing.loudness
    return SoundFigures(loudness.integrated_lufs, loudness.true_peak_db, loudness.clipped)
