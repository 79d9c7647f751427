"""What a training run is given: a lesson. The runner knows nothing of pictures, sounds or diffusion."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.models.upscaler import Upscaler
from longtake.pipeline.training.spec import TrainSpec

Batch = dict[str, Tensor]

Student = EmbeddedModel | Upscaler
"""What a lesson teaches, and a run saves."""


class TrainTask(Protocol):
    """One stage of training: what is learned, and from what.

    Every worker builds its own from the same `TrainSpec`, so building one must depend on the spec alone.
    """

    @property
    def objective(self) -> nn.Module:
        """What is minimised; always the same object.

        `forward(batch)` gives scalar tensors by name: "loss", which is minimised, and whatever else is worth logging,
        the same names at every step. Parameters with `requires_grad` are trained. All are float32; the runner adds
        autocast. What it draws from torch's default generator is a function of seed, step and rank, as `draw` is.
        """
        ...

    def draw(self, seed: int, step: int, rank: int, size: int) -> Batch:
        """`size` examples on the CPU; a pure function of its arguments.

        The examples of a step should be numbered over ranks, `rank * size + i`, so that a run on two workers sees the
        same ones as a run on one.
        """
        ...

    def finished(self, weights: Mapping[str, Tensor]) -> Student:
        """The model to save, given the objective's state dict with its averaged weights, on the CPU.

        The runner asks a lesson of its own, built like those that train, so this may load the weights into it.
        """
        ...

    def sample(self, model: Any, folder: Path) -> None:
        """Leave something of the `model` that `finished` gave to look at (PNG, MP4) in `folder`, which exists."""
        ...


LessonBuilder = Callable[[TrainSpec], TrainTask]
