"""Figures of every frame, measured while the film is streamed; at most one block and two frames are held.

Shapes: f frames, h height, w width.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.media.read import FrameBlock

Array = NDArray[np.float64]

_LEAST_SIDE = 8
_TOP = 250
LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
"""The weights of R, G and B in luma: ITU-R BT.709."""


@dataclass(frozen=True)
class Pictures:
    """Figures per frame [f], all in units of the 8-bit scale.

    Args:
        times_s: presentation time.
        change: mean difference from the frame before; 0 for the first.
        jolt: mean second difference over the two frames before, low for steady motion; 0 for the first two.
        brightness: mean luma.
        contrast: standard deviation of luma.
        saturation: mean of the largest minus the smallest of R, G and B.
        sharpness: variance of the Laplacian of luma (Pech-Pacheco et al., 2000), smoothed over two pixels; 0 for
            pictures of less than 8 pixels on a side.
        burnt: share of pixels that are white or fully saturated: the largest of R, G and B is at the top of the scale,
            and the smallest at the top too, or at the bottom.
        stills: selected frames [h w 3] by number, for display.
    """

    times_s: Array
    change: Array
    jolt: Array
    brightness: Array
    contrast: Array
    saturation: Array
    sharpness: Array
    burnt: Array
    stills: dict[int, NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.times_s)


class PictureMeter:
    """Measures frames block by block.

    Args:
        keep: numbers of the frames to keep as stills.
    """

    def __init__(self, keep: Iterable[int] = ()) -> None:
        self._keep = frozenset(keep)
        self._parts: list[Array] = []
        self._stills: dict[int, NDArray[np.uint8]] = {}
        self._before: NDArray[np.float32] | None = None  # the two frames before the block, or the first one
        self._count = 0

    def add(self, block: FrameBlock) -> None:
        """Measure the next frames."""
        frames = block.frames.astype(np.float32)
        held = frames if self._before is None else np.concatenate((self._before, frames))
        known = len(held) - len(frames)
        steps = np.diff(held, axis=0)
        change, jolt = np.zeros(len(held)), np.zeros(len(held))
        change[1:] = np.abs(steps).mean(axis=(1, 2, 3))
        jolt[2:] = np.abs(np.diff(steps, axis=0)).mean(axis=(1, 2, 3))
        luma = frames @ LUMA
        least, most = _extremes(block.frames)
        rows = (
            np.array([float(time_s) for time_s in block.times_s]),
            change[known:],
            jolt[known:],
            luma.mean(axis=(1, 2)),
            luma.std(axis=(1, 2)),
            (most.astype(np.float32) - least).mean(axis=(1, 2)),
            _laplacian(luma).var(axis=(1, 2)) if min(luma.shape[1:]) >= _LEAST_SIDE else np.zeros(len(luma)),
            ((most >= _TOP) & ((least >= _TOP) | (least <= 255 - _TOP))).mean(axis=(1, 2)),
        )
        self._parts.append(np.stack(rows))
        for number in self._keep.intersection(range(self._count, self._count + len(frames))):
            self._stills[number] = block.frames[number - self._count]
        self._before, self._count = held[-2:], self._count + len(frames)

    def pictures(self) -> Pictures:
        """The figures so far."""
        times_s, change, jolt, brightness, contrast, saturation, sharpness, burnt = np.concatenate(self._parts, axis=1)
        stills = dict(sorted(self._stills.items()))
        return Pictures(times_s, change, jolt, brightness, contrast, saturation, sharpness, burnt, stills)


def _extremes(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The smallest and the largest of R, G and B [f h w]; NumPy's own `min` over so short an axis is slower."""
    red, green, blue = np.moveaxis(frames, 3, 0)
    return np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)


def _laplacian(luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """The Laplacian of smoothed luma [f h-6 w-6].

    Without smoothing, an edge in the middle of a pixel looks softer than the same edge on a pixel's border.
    """
    soft = _binomial(_binomial(luma))
    neighbours = soft[:, 1:-1, :-2] + soft[:, 1:-1, 2:] + soft[:, :-2, 1:-1] + soft[:, 2:, 1:-1]
    return np.asarray(neighbours - 4 * soft[:, 1:-1, 1:-1])


def _binomial(luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights 1 2 1 along both axes [f h-2 w-2]."""
    across = (luma[:, :, :-2] + 2 * luma[:, :, 1:-1] + luma[:, :, 2:]) / 4
    return np.asarray((across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]) / 4)
