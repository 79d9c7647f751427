"""UniPC (Zhao et al., arXiv 2302.04867), as diffusers' scheduler steps it: the solver that Wan is published with.

It remembers the velocities of the steps before, so every stream of every chunk has a scheduler of its own.

Shapes: b batch, f latent frames.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise

import numpy as np
from torch import Tensor


class UniPC:
    """A second-order multistep solver; answers to `sampling.solver.Solver`."""

    def begin(self, levels: Sequence[float]) -> "UniPCSteps":
        """See `Solver.begin`."""
        return UniPCSteps(levels)


class UniPCSteps:
    """One stream of one chunk on its way; answers to `sampling.solver.Steps`.

    Args:
        levels: from noise down to 0; where they rest, as those of a stream that waits for another one, nothing happens.
    """

    def __init__(self, levels: Sequence[float]) -> None:
        moving = np.array([level for level, following in pairwise(levels) if level != following])
        diffusers = import_module("diffusers")  # now, since it takes two seconds that other solvers need not wait
        self._scheduler = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        self._scheduler.set_timesteps(sigmas=moving)
        self._scheduler.set_begin_index(0)
        self._timesteps = iter(self._scheduler.timesteps)

    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        """See `Steps.step`; x and velocity are [b f ...]."""
        del fresh_noise
        if sigma == next_sigma:
            return x
        stepped: Tensor = self._scheduler.step(velocity, next(self._timesteps), x, return_dict=False)[0]
        return stepped
