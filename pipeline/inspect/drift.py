"""Drift: the end of each scene compared with its start.

Long rollouts fade, oversaturate, blur or freeze. Measures are compared within a scene, since another prompt may be
darker or faster on purpose. Brightness is left out, since it depends on the content.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.loudness import STEP_S
from longtake.pipeline.inspect.pictures import Pictures

Array = NDArray[np.float64]

MEASURES = ("contrast", "saturation", "sharpness")
_LEAST_SCENE_S = 4.0
_SHARE = 0.25  # of a scene, at its start and at its end
_MOST_S = 30.0
_LEAST_LOUD_S = 3.0  # in a shorter span, a single hit changes the level by several decibels
_LEAST_MOTION = 0.1  # 8-bit units; below it the scene is a still from the start
_LEAST_LEVEL = 1.0


@dataclass(frozen=True)
class SceneDrift:
    """The end of one scene compared with its start.

    Args:
        scene: number of the scene.
        contrast, saturation, sharpness: relative change; 0.1 is 10 % more.
        loudness_db: change in level; None for silence and for scenes shorter than 12 s.
        motion: frame-to-frame change at the end divided by that at the start; None for a still.
    """

    scene: int
    contrast: float
    saturation: float
    sharpness: float
    loudness_db: float | None
    motion: float | None


@dataclass(frozen=True)
class Drift:
    """All scenes of at least four seconds, and the largest signed change of each measure."""

    scenes: tuple[SceneDrift, ...]
    contrast: float
    saturation: float
    sharpness: float
    loudness_db: float | None
    motion: float | None


def measure_drift(
    pictures: Pictures, scenes: Sequence[range], fps: float, steps_db: NDArray[np.float32] | None = None
) -> Drift | None:
    """Compare the end of each scene (a range of frames) with its start; None if all are shorter than four seconds."""
    long = [(number, frames) for number, frames in enumerate(scenes) if len(frames) >= _LEAST_SCENE_S * fps]
    drifts = tuple(_scene_drift(number, pictures, frames, fps, steps_db) for number, frames in long)
    if not drifts:
        return None
    louder = [drift.loudness_db for drift in drifts if drift.loudness_db is not None]
    motions = [drift.motion for drift in drifts if drift.motion is not None]
    return Drift(
        scenes=drifts,
        contrast=max((drift.contrast for drift in drifts), key=abs),
        saturation=max((drift.saturation for drift in drifts), key=abs),
        sharpness=max((drift.sharpness for drift in drifts), key=abs),
        loudness_db=max(louder, key=abs) if louder else None,
        motion=min(motions) if motions else None,
    )


def per_second(values: Array, fps: float) -> Array:
    """The median of every whole second of per-frame values [f]; of all values if they span less than a second."""
    seconds = max(1, int(len(values) / fps))
    borders = np.minimum(np.round(np.arange(seconds + 1) * fps).astype(int), len(values))
    return np.array([np.median(values[start:stop]) for start, stop in pairwise(borders.tolist())])


def _scene_drift(
    number: int, pictures: Pictures, frames: range, fps: float, steps_db: NDArray[np.float32] | None
) -> SceneDrift:
    length = int(min(_SHARE * len(frames), _MOST_S * fps))
    # The first second is skipped: the transition after a cut or a change of prompt is not drift.
    skipped = min(length // 2, round(fps))
    start = slice(frames.start + skipped, frames.start + skipped + length)
    stop = slice(frames.stop - length, frames.stop)
    changes = {name: _change(getattr(pictures, name), start, stop) for name in MEASURES}
    first, last = (float(np.mean(pictures.change[part])) for part in (start, stop))
    long_enough = length >= _LEAST_LOUD_S * fps
    return SceneDrift(
        scene=number,
        **changes,
        loudness_db=_level_change(steps_db, start, stop, fps) if steps_db is not None and long_enough else None,
        motion=last / first if first > _LEAST_MOTION else None,
    )


def _change(values: Array, start: slice, stop: slice) -> float:
    first, last = float(np.median(values[start])), float(np.median(values[stop]))
    return (last - first) / max(first, _LEAST_LEVEL)


def _level_change(steps_db: NDArray[np.float32], start: slice, stop: slice, fps: float) -> float | None:
    first, last = (_level(steps_db, part, fps) for part in (start, stop))
    return None if first is None or last is None else last - first


def _level(steps_db: NDArray[np.float32], frames: slice, fps: float) -> float | None:
    """The mean power, in decibels; None for silence."""
    part = steps_db[int(frames.start / fps / STEP_S) : int(frames.stop / fps / STEP_S)].astype(np.float64)
    power = float(np.mean(10 ** (part / 10))) if len(part) else 0.0
    return float(10 * np.log10(power)) if power > 1e-7 else None
