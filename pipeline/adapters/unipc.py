"""UniPC (Zhao et al., arXiv 2302.04867) by diffusers' scheduler: the solver that Wan is published with.

The solver keeps the velocities of earlier steps, so every stream of every chunk has its own scheduler.

Shapes: b batch, f latent frames.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise

import numpy as np
from torch import Tensor


class UniPC:
    """A second-order multistep solver."""

    def begin(self, levels: Sequence[float]) -> "UniPCSteps":
        """Start the steps of one stream of one chunk over `levels`."""
        return UniPCSteps(levels)


class UniPCSteps:
    """The steps of one stream of one chunk.

    Args:
        levels: noise levels from noise down to 0; between equal levels, as of a stream that waits for another one, a
            step changes nothing.
    """

    def __init__(self, levels: Sequence[float]) -> None:
        moving = np.array([level for level, following in pairwise(levels) if level != following])
        diffusers = import_module(
            "diffusers"
        )  # imported here, since it takes two seconds and other solvers do not need it
        self._scheduler = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        self._scheduler.set_timesteps(sigmas=moving)
        self._scheduler.set_begin_index(0)
        self._timesteps = iter(self._scheduler.timesteps)

    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        """Step `x` [b f ...] with `velocity` [b f ...] from `sigma` to `next_sigma`; UniPC draws no noise."""
        del fresh_noise
        if sigma == next_sigma:
            return x
        stepped: Tensor = self._scheduler.step(velocity, next(self._timesteps), x, return_dict=False)[0]
        return stepped
