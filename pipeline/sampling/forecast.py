"""Forecasts of a tensor from its values at earlier steps, as weights of these values, computed in float64 on the host.

Shapes: n values, m polynomials.
"""

from collections.abc import Sequence
from math import factorial

import numpy as np
import torch
from torch import Tensor

from longtake.pipeline.sampling.step_plan import Basis

RIDGE = 0.1
"""Of the Chebyshev fit: lambda of Spectrum."""


def taylor(steps: Sequence[float], target: float, order: int) -> list[float]:
    """Weights [n] of the values at `steps`, ascending, for the value at `target`: a Taylor series of backward
    differences, each over the distance of the last two steps (Liu et al., TaylorSeer, arXiv 2503.06923, equation 5).
    """
    differences: list[np.ndarray] = []
    last = steps[0]
    for number, step in enumerate(steps):
        newer = [np.eye(len(steps))[number]]
        for level, before in enumerate(differences[:order]):
            newer.append((newer[level] - before) / (step - last))
        differences, last = newer, step
    ahead = target - last
    series = [ahead**level / factorial(level) * each for level, each in enumerate(differences)]
    return [float(weight) for weight in np.sum(series, axis=0)]


def chebyshev(steps: Sequence[float], target: float, order: int, end: float) -> list[float]:
    """Weights [n] of the values at `steps` for the value at `target`: a ridge regression on the first Chebyshev
    polynomials over 0..`end` (Spectrum, arXiv 2603.01623)."""
    places = 2 * np.array([*steps, target]) / end - 1
    rows = np.polynomial.chebyshev.chebvander(places, min(order, len(steps) - 1))
    known, wanted = rows[:-1], rows[-1]
    gram = known.T @ known + RIDGE * np.eye(known.shape[1])
    return [float(weight) for weight in wanted @ np.linalg.solve(gram, known.T)]


class History:
    """The last values of a tensor, with the steps at which they were computed.

    Args:
        length: how many are kept.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._kept: list[tuple[int, Tensor]] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def last(self) -> Tensor:
        """The latest value."""
        return self._kept[-1][1]

    @property
    def before(self) -> Tensor:
        """The one before it."""
        return self._kept[-2][1]

    def add(self, step: int, value: Tensor) -> None:
        """Remember a value."""
        self._kept = [*self._kept, (step, value)][-self._length :] if self._length else []

    def forecast(self, step: int, order: int = 0, basis: Basis = "taylor", end: float = 1.0) -> Tensor:
        """The value at `step`; bit for bit the latest one if `order` is 0.

        Args:
            end: the last step of all, for "chebyshev".
        """
        if order == 0 or len(self._kept) == 1:
            return self.last
        steps = [float(known) for known, _ in self._kept]
        weights = chebyshev(steps, step, order, end) if basis == "chebyshev" else taylor(steps, step, order)
        total = torch.zeros_like(self.last)
        for weight, (_, value) in zip(weights, self._kept, strict=True):
            if weight:
                total = total.add(value, alpha=weight)
        return total
