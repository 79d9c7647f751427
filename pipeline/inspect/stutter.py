"""Stutter: uneven motion where the latents of a codec meet, and jumps in the first chunk after a cut.

A codec decodes several frames from one latent. If two neighbouring latents disagree on the motion, the picture moves
further, or less far, between the last frame of the one and the first frame of the other than within them. `seams.py`
compares chunk borders with other latent borders and therefore does not see it; here the baseline is the motion inside
latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.motion import Track
from longtake.pipeline.inspect.pictures import Pictures

Array = NDArray[np.float64]

_LEAST_LEVEL = 0.05  # 8-bit units; coding noise of a still
_LEAST_STEPS = 4
_TURN_S = 0.15  # around a hit, where motion is uneven on purpose


@dataclass(frozen=True)
class Stutter:
    """Motion at latent borders compared with motion inside latents. Chunk borders are left out; `Seams` has them.

    Args:
        ratio: frame-to-frame change at latent borders divided by that inside latents; 1 is even.
        border_px, inside_px: mean step of a tracked shape at latent borders and inside latents; None without one.
        uneven_px: RMS difference between a step at a latent border and the mean of the steps next to it.
    """

    ratio: float
    border_px: float | None
    inside_px: float | None
    uneven_px: float | None


@dataclass(frozen=True)
class Starts:
    """The first chunk after each cut and at the film's start, in films with a tracked shape.

    Args:
        count: sections with a visible shape in their first chunk.
        jump_px: the largest step of the shape in a first chunk.
        jump_frame: the frame that it leads to.
        later_px: the largest step in the other chunks, as the 99th percentile; None without others.
        unseen: share of the frames in first chunks in which no single shape is visible.
        unseen_later: the same in the other chunks.
    """

    count: int
    jump_px: float
    jump_frame: int
    later_px: float | None
    unseen: float
    unseen_later: float | None


def measure_stutter(
    pictures: Pictures,
    chunk_borders: Sequence[int],
    latent_borders: Sequence[int],
    changes: Sequence[int] = (),
    middles: Array | None = None,
    track: Track | None = None,
) -> Stutter | None:
    """Compare motion at latent borders with motion inside latents; None without latent borders.

    Args:
        chunk_borders, latent_borders: first frames of chunks and of latents.
        changes: first frames of scenes, where the picture may change on purpose.
        middles: centre of the tracked shape in every frame [f 2].
        track: its hits, near which steps are not compared.
    """
    frames = np.arange(2, len(pictures))
    inside = frames[~np.isin(frames, [*latent_borders, *chunk_borders, *changes])]
    borders = frames[np.isin(frames, latent_borders) & ~np.isin(frames, [*chunk_borders, *changes])]
    if not len(borders) or not len(inside):
        return None
    at, within = (max(_LEAST_LEVEL, float(pictures.change[part].mean())) for part in (borders, inside))
    border_px, inside_px, uneven_px = _steps(pictures, borders, inside, middles, track)
    return Stutter(at / within, border_px, inside_px, uneven_px)


def _steps(
    pictures: Pictures,
    borders: NDArray[np.int64],
    inside: NDArray[np.int64],
    middles: Array | None,
    track: Track | None,
) -> tuple[float | None, float | None, float | None]:
    """The mean step of the shape at `borders` and `inside`, and how uneven the steps at borders are, in pixels."""
    if middles is None or track is None:
        return None, None, None
    steps = np.full(len(middles), np.nan)
    steps[1:] = np.linalg.norm(np.diff(middles, axis=0), axis=1)
    for hit_s in track.hits_s:
        steps[np.abs(pictures.times_s - hit_s) < _TURN_S] = np.nan
    at, within = (part[np.isfinite(part)] for part in (steps[borders], steps[inside]))
    if min(len(at), len(within)) < _LEAST_STEPS:
        return None, None, None
    both = borders[borders + 1 < len(steps)]
    uneven = steps[both] - (steps[both - 1] + steps[both + 1]) / 2
    uneven = uneven[np.isfinite(uneven)]
    return (
        float(at.mean()),
        float(within.mean()),
        float(np.sqrt(np.mean(uneven**2))) if len(uneven) else None,
    )


def measure_starts(middles: Array, chunk_borders: Sequence[int], cuts: Sequence[int]) -> Starts | None:
    """The jumps in first chunks; None without chunks, or if no shape is visible in any first chunk.

    Args:
        middles: centre of the tracked shape in every frame [f 2], NaN where none is visible.
        chunk_borders: first frames of chunks, except the first.
        cuts: first frames after cuts.
    """
    if not chunk_borders:
        return None
    stops = [*sorted(chunk_borders), len(middles)]
    first = np.zeros(len(middles), dtype=bool)
    for start in (0, *cuts):
        first[start : next(stop for stop in stops if stop > start)] = True
    steps = np.full(len(middles), np.nan)
    steps[1:] = np.linalg.norm(np.diff(middles, axis=0), axis=1)
    steps[list(cuts)] = np.nan
    seen = np.isfinite(middles.sum(axis=1))
    early, late = (steps[part & np.isfinite(steps)] for part in (first, ~first))
    if not len(early):
        return None
    jumps = np.where(first, np.nan_to_num(steps), 0.0)
    starts = [start for start in (0, *cuts) if seen[start : next(stop for stop in stops if stop > start)].any()]
    return Starts(
        count=len(starts),
        jump_px=float(jumps.max()),
        jump_frame=int(jumps.argmax()),
        later_px=float(np.quantile(late, 0.99)) if len(late) else None,
        unseen=float(1 - seen[first].mean()),
        unseen_later=float(1 - seen[~first].mean()) if (~first).any() else None,
    )
