"""One step from a noise level to the next.

Latents at a noise level are x(sigma) = (1 - sigma) clean + sigma noise; the velocity is noise minus clean.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Solver(Protocol):
    """Moves latents from `sigma` to `next_sigma`."""

    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        """The latents at `next_sigma`; `fresh_noise` gives noise shaped like `x` that no other step has seen."""
        ...


class Euler:
    """Follows the velocity in a straight line (flow matching's ordinary differential equation, first order)."""

    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        """See `Solver.step`."""
        return x + (next_sigma - sigma) * velocity


class Renoise:
    """Predicts clean latents and adds fresh noise: for few-step distilled models (CausVid, Self-Forcing)."""

    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        """See `Solver.step`."""
        clean = x - sigma * velocity
        return clean if next_sigma == 0 else (1 - next_sigma) * clean + next_sigma * fresh_noise()
