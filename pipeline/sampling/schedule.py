"""Noise levels from 1 (noise) down to 0 (clean)."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

Real = TypeVar("Real", float, np.ndarray)

Levels = Mapping[str, Sequence[float]]
"""The noise levels of each stream, step by step, as many for all."""


def shift_sigma(sigma: Real, shift: float) -> Real:
    """A level bent towards noise: sigma' = shift * sigma / (1 + (shift - 1) * sigma).

    Source: Esser et al., arXiv 2403.03206, section 5.3.2; `shift=1` changes nothing.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def staggered(progress: Real, lag: float) -> tuple[Real, Real]:
    """How far the leading and the lagging stream are, each 0..1, when both together are at `progress` 0..1.

    With lag 0 they go together; with lag 1 the second begins when the first is done.
    """
    reach = progress * (1 + lag)
    leading, lagging = np.clip(reach, 0, 1), np.clip(reach - lag, 0, 1)
    return leading, lagging


def noise_levels(steps: int, shift: float = 1.0, audio_lag: float = 0.0, lowest: float = 0.0) -> Levels:
    """`steps + 1` levels of each stream, both reaching 0 at the end: even steps, bent by `shift_sigma`.

    Args:
        lowest: the level, before it is bent, that the even steps lead to; the step after it is to 0. UniPC's schedule
            leads to the lowest level that was trained, 1/1000.
    """
    done = np.arange(steps + 1) / steps
    return {
        stream: tuple(map(float, np.where(progress < 1, shift_sigma(1 - (1 - lowest) * progress, shift), 0.0)))
        for stream, progress in zip(("video", "audio"), staggered(done, audio_lag), strict=True)
    }


def stretched(levels: Sequence[float], terminal: float) -> tuple[float, ...]:
    """Levels from 1 to 0 whose last one above 0 becomes `terminal`, the others in proportion.

    Source: `shift_terminal` of diffusers' FlowMatchEulerDiscreteScheduler, as LTX-Video samples.
    """
    last = min(level for level in levels if level > 0)
    scale = (1 - terminal) / (1 - last) if last < 1 else 1.0
    return tuple(1 - (1 - level) * scale if level > 0 else 0.0 for level in levels)
