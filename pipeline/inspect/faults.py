"""Films that show or sound nothing: black, frozen, burnt out or silent for a part of their length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.pictures import Pictures

_BLACK_LUMA, _BLACK_CONTRAST = 20.0, 8.0  # 8-bit units; video black with its noise
_FROZEN_CHANGE = 0.25  # 8-bit units; -60 dB, as in FFmpeg's freezedetect
_FROZEN_S = 2.0  # a shorter rest is no freeze, as in FFmpeg's freezedetect
_SILENT_LUFS = -70.0  # the gate of BS.1770
_FILTER_STEPS = 3  # of momentary loudness at the film's start, which are never measured


@dataclass(frozen=True)
class Faults:
    """Shares of the film, 0..1.

    Args:
        black: frames that are black.
        frozen: frames that repeat the one before for at least two seconds, or through the whole film; scenes that ask
            for a rest are left out. None for a film of one frame, or if all scenes ask for a rest.
        burnt: pixels that are white or fully saturated; the mean over the film.
        silent: time below -70 LUFS; None without sound, or if a scene asks for silence.
    """

    black: float
    frozen: float | None
    burnt: float
    silent: float | None


def find_faults(
    pictures: Pictures,
    fps: float,
    steps_db: NDArray[np.float32] | None = None,
    *,
    resting: Sequence[range] = (),
    quiet: bool = False,
) -> Faults:
    """The faults of a film.

    Args:
        steps_db: momentary loudness of every 100 ms; None without sound.
        resting: frames of scenes whose prompt asks for a picture at rest.
        quiet: whether a scene's prompt asks for silence.
    """
    return Faults(
        black=float(np.mean((pictures.brightness < _BLACK_LUMA) & (pictures.contrast < _BLACK_CONTRAST))),
        frozen=_frozen(pictures, fps, resting),
        burnt=float(pictures.burnt.mean()),
        silent=None if steps_db is None or quiet else _silent(steps_db),
    )


def _frozen(pictures: Pictures, fps: float, resting: Sequence[range]) -> float | None:
    moves = np.ones(len(pictures), dtype=bool)  # whether a frame may be asked to differ from the one before
    moves[0] = False
    for frames in resting:
        moves[frames.start : frames.stop] = False
    if not moves.any():
        return None
    still = moves & (pictures.change < _FROZEN_CHANGE)
    least = min(round(_FROZEN_S * fps), int(moves.sum()))
    edges = np.flatnonzero(np.diff(still, prepend=False, append=False))
    lengths = edges[1::2] - edges[::2]
    return float(lengths[lengths >= least].sum() / moves.sum())


def _silent(steps_db: NDArray[np.float32]) -> float | None:
    heard = steps_db[_FILTER_STEPS:]
    return float(np.mean(heard < _SILENT_LUFS)) if len(heard) else None
