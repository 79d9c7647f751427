"""UniPC (Zhao et al., arXiv 2302.04867) by diffusers' scheduler: the solver that Wan is published with.

It uses the velocities of earlier steps, so every stream of every chunk has its own scheduler.

Shapes: b batch, f latent frames.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise

import numpy as np
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.sampling.solver import Solver, Steps

TIMESTEPS = 1000
"""Of the models that are sampled with it."""

ALMOST_NOISE = 1 - 1e-6
"""Of two logarithms of the solver, one is infinite at noise level 1, so diffusers starts right below."""


class UniPC(Solver):
    """A second-order multistep solver. Its schedules lead to the lowest noise level above 0 that models of a thousand
    timesteps were trained with. As in diffusers and in Wan's own code, a model is told whole timesteps, cut off."""

    lowest_level = 1 / TIMESTEPS

    @override
    def begin(self, levels: Sequence[float]) -> "UniPCSteps":
        return UniPCSteps(levels)

    @override
    def seen_level(self, level: float) -> float:
        return int(TIMESTEPS * min(level, ALMOST_NOISE)) / TIMESTEPS


class UniPCSteps(Steps):
    """The steps of one stream of one chunk.

    Args:
        levels: from noise down to 0; where two are equal, as for a stream that waits for another one, a step does
            nothing.
    """

    def __init__(self, levels: Sequence[float]) -> None:
        moving = np.array([level for level, following in pairwise(levels) if level != following])
        diffusers = import_module("diffusers")  # here, because it takes two seconds
        self._scheduler = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        self._scheduler.set_timesteps(sigmas=moving)
        self._scheduler.set_begin_index(0)
        self._timesteps = iter(self._scheduler.timesteps)

    @override
    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        del fresh_noise
        if sigma == next_sigma:
            return x
        stepped: Tensor = self._scheduler.step(velocity, next(self._timesteps), x, return_dict=False)[0]
        return stepped
