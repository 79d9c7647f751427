"""The running average of the weights; it is saved instead of the weights of the last step, since it renders better."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class RunningAverage:
    """Exponential moving average of a module's trained parameters, in float32.

    Args:
        decay: share of the average that a step keeps; early steps keep less, so that short runs forget the initial
            weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._module = module
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self._trained: list[Tensor] = list(trained.values())
        self.weights = {name: weight.detach().float().clone() for name, weight in trained.items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Update the average with the module's weights after `step`, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), self._trained, 1 - decay)

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Continue from a saved average."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The module's state dict on the CPU: averages of trained weights, all others unchanged."""
        state = {**self._module.state_dict(), **self.weights}
        return {name: tensor.detach().cpu() for name, tensor in state.items()}
