"""One step from a noise level to the next.

Latents at a noise level are x(sigma) = (1 - sigma) clean + sigma noise; the velocity is noise minus clean.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, Self

from torch import Tensor


class Solver(Protocol):
    """A way of going from noise to clean."""

    def begin(self, levels: Sequence[float]) -> "Steps":
        """What takes one stream of one chunk along `levels`, from its first step on."""
        ...


class Steps(Protocol):
    """Moves latents from `sigma` to `next_sigma`, step by step; what it remembers of the steps before is its own."""

    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        """The latents at `next_sigma`; `fresh_noise` gives noise shaped like `x` that no other step has seen."""
        ...


class Euler:
    """Follows the velocity in a straight line (flow matching's ordinary differential equation, first order)."""

    def begin(self, _: Sequence[float]) -> Self:
        """See `Solver.begin`; it remembers nothing."""
        return self

    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        """See `Steps.step`."""
        return x + (next_sigma - sigma) * velocity


class Renoise:
    """Predicts clean latents and adds fresh noise: for few-step distilled models (CausVid, Self-Forcing)."""

    def begin(self, _: Sequence[float]) -> Self:
        """See `Solver.begin`; it remembers nothing."""
        return self

    def step(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, fresh_noise: Callable[[], Tensor]
    ) -> Tensor:
        """See `Steps.step`."""
        clean = x - sigma * velocity
        return clean if next_sigma == 0 else (1 - next_sigma) * clean + next_sigma * fresh_noise()
