"""One step from a noise level to the next.

Latents at a noise level are x(sigma) = (1 - sigma) clean + sigma noise; the velocity is noise minus clean.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, Self, cast

from torch import Tensor
from typing_extensions import override

from longtake.pipeline.registry import SOLVERS, resolve


class Solver(Protocol):
    """A way from noise to clean. `registry.SOLVERS` names them.

    Attributes:
        lowest_level: the lowest noise level above 0 that a schedule should lead to; 0 where the schedule may choose.
        adds_noise: whether every step to a level above 0 draws fresh noise, which is then drawn before the first step.
    """

    lowest_level: float
    adds_noise: bool = False

    def begin(self, levels: Sequence[float]) -> "Steps":
        """The steps of one stream of one chunk along `levels`."""
        ...

    def seen_level(self, level: float) -> float:
        """The noise level that a model is told for latents at `level`: the same, unless it counts whole timesteps."""
        return level


class Steps(Protocol):
    """Moves latents from `sigma` to `next_sigma`, step by step; it may remember earlier steps."""

    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        """The latents at `next_sigma`; `fresh_noise` gives noise shaped like `x` that no other step has seen."""
        ...


class _Memoryless(Solver, Steps):
    """A solver whose steps do not depend on earlier ones, so it serves as its own `Steps`."""

    lowest_level = 0.0

    @override
    def begin(self, levels: Sequence[float]) -> Self:
        return self


class Euler(_Memoryless):
    """Follows the velocity in a straight line (flow matching's ordinary differential equation, first order)."""

    @override
    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        return x + (next_sigma - sigma) * velocity


class Renoise(_Memoryless):
    """Predicts clean latents and adds fresh noise: for few-step distilled models (CausVid, Self-Forcing)."""

    adds_noise = True

    @override
    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        clean = x - sigma * velocity
        return clean if next_sigma == 0 else (1 - next_sigma) * clean + next_sigma * fresh_noise()


def solver_named(name: str) -> Solver:
    """The solver that `sampling.solver` names."""
    return cast(Solver, resolve(SOLVERS[name])())
