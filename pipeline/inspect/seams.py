"""Visibility of the seams between chunks in the picture.

Each border is compared with the chunks on both sides, since scenes differ in how much they move. It is also compared
with the borders between video latents inside those chunks: a codec that codes four frames at once changes more every
four frames, which is not caused by the chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.pictures import Pictures

Array = NDArray[np.float64]

_MAD_TO_SIGMA = 1.4826
_LEAST_SPREAD = 0.03  # of the median; in pictures that hardly vary, any small change would be an outlier
_LEAST_LEVEL = 0.05  # 8-bit units; coding noise of a still
_MOST_REACH = 64


@dataclass(frozen=True)
class Seams:
    """Chunk borders compared with their surroundings; a ratio of 1 means that the border does not stand out.

    Args:
        count: borders compared, without those between scenes.
        ratio: frame-to-frame change at borders divided by that inside the chunks.
        jolt_ratio: the same for second differences: jumps in position or speed.
        latent_ratio: change at chunk borders divided by that at other latent borders; None if these are unknown.
        z: robust deviations (1.4826 MAD) by which the change lies above the local median; median over borders.
        worst_z: the largest of them.
        worst_ratio: change at that border divided by the local median.
        worst_frame: first frame after that border.
    """

    count: int
    ratio: float
    jolt_ratio: float
    latent_ratio: float | None
    z: float
    worst_z: float
    worst_ratio: float
    worst_frame: int


def measure_seams(
    pictures: Pictures, borders: Sequence[int], latent_borders: Sequence[int] = (), changes: Sequence[int] = ()
) -> Seams | None:
    """Compare the change at chunk borders with that around them; None without borders.

    Args:
        borders: first frames of chunks.
        latent_borders: first frames of video latents.
        changes: first frames of scenes, where the picture may change on purpose.
    """
    seams = sorted(set(borders) - set(changes) - {0, 1})
    reach = _reach(sorted({0, *borders, len(pictures)}))
    surroundings = [_Surroundings(pictures, seam, reach, borders, latent_borders) for seam in seams]
    inside = [around for around in surroundings if len(around.inside)]
    if not inside:
        return None
    worst = max(inside, key=lambda around: around.z)
    at_latents = [around for around in inside if len(around.latents)]
    return Seams(
        count=len(inside),
        ratio=_ratio([around.change for around in inside], [around.inside.mean() for around in inside]),
        jolt_ratio=_ratio([around.jolt for around in inside], [around.jolt_inside for around in inside]),
        latent_ratio=_ratio([a.change for a in at_latents], [a.latents.mean() for a in at_latents])
        if at_latents
        else None,
        z=float(np.median([around.z for around in inside])),
        worst_z=worst.z,
        worst_ratio=worst.change / max(float(np.median(worst.inside)), _LEAST_LEVEL),
        worst_frame=worst.seam,
    )


class _Surroundings:
    """One border, the frames inside the adjacent chunks, and the other latent borders among those."""

    def __init__(
        self, pictures: Pictures, seam: int, reach: int, borders: Sequence[int], latent_borders: Sequence[int]
    ) -> None:
        start, stop = max(2, seam - reach), min(len(pictures), seam + reach)
        frames = np.arange(start, stop)
        at_border = np.isin(frames, borders)
        near_border = at_border | np.isin(frames - 1, borders)
        self.seam = seam
        self.change = float(pictures.change[seam])
        self.inside: Array = pictures.change[start:stop][~at_border]
        self.latents: Array = pictures.change[start:stop][~at_border & np.isin(frames, latent_borders)]
        self.jolt = float(pictures.jolt[seam : seam + 2].mean())
        calm = pictures.jolt[start:stop][~near_border]
        self.jolt_inside = float(calm.mean()) if len(calm) else self.jolt
        self.z = self._z() if len(self.inside) else 0.0

    def _z(self) -> float:
        middle = float(np.median(self.inside))
        spread = _MAD_TO_SIGMA * float(np.median(np.abs(self.inside - middle)))
        return (self.change - middle) / max(spread, _LEAST_SPREAD * middle, _LEAST_LEVEL)


def _reach(stops: Sequence[int]) -> int:
    """Frames to compare on either side: the median length of a chunk, at most `_MOST_REACH`."""
    return int(np.clip(np.median(np.diff(stops)), 4, _MOST_REACH))


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The ratio of sums, each with a floor, so that a still does not divide by zero."""
    least = _LEAST_LEVEL * len(below)
    return max(float(sum(above)), least) / max(float(sum(below)), least)
