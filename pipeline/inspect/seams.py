"""Whether the picture shows where one chunk ends and the next begins.

What happens at a border is compared with the chunks on both of its sides, since scenes differ in how much they move;
and with the borders between video latents inside those chunks, since a codec that codes four frames at once pulses
every four frames, and that is not the chunks' doing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.pictures import Pictures

Array = NDArray[np.float64]

_MAD_TO_SIGMA = 1.4826
_LEAST_SPREAD = 0.03  # of the median; pictures that hardly vary would make any trifle an outlier
_LEAST_LEVEL = 0.05  # 8-bit units, what a codec changes in a still
_MOST_REACH = 64


@dataclass(frozen=True)
class Seams:
    """Chunk borders against what surrounds them; 1 means alike, for all ratios.

    Args:
        count: borders compared; those between scenes are left out.
        ratio: change from frame to frame at borders, over that inside the chunks.
        jolt_ratio: second differences likewise: a jump in position or in speed.
        latent_ratio: change at chunk borders, over that at the other borders between latents; None where unknown.
        z: median over borders of how many robust deviations (1.4826 MAD) the change lies above the local median.
        worst_z: the largest of them.
        worst_ratio: change at that border over the local median.
        worst_frame: which border that is.
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
    """Compare the picture at chunk borders with that around them; None without a border.

    Args:
        borders: frames that open a chunk.
        latent_borders: frames that open a video latent.
        changes: frames that open a scene, where the picture may change on purpose.
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
    """One border, the frames inside the chunks beside it, and the other latents' borders among those."""

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
    """The length of a usual chunk, and no more than the eye compares."""
    return int(np.clip(np.median(np.diff(stops)), 4, _MOST_REACH))


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The ratio of sums, so that a still does not divide by nothing."""
    least = _LEAST_LEVEL * len(below)
    return max(float(sum(above)), least) / max(float(sum(below)), least)
