"""The interface of training tasks. The runner is independent of pictures, sound and diffusion."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.models.upscaler import Upscaler
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.weights.lora import TrainedLora

Batch = dict[str, Tensor]

TrainedModel = EmbeddedModel | Upscaler | TrainedLora
"""The models that a run can train and save."""


class TrainTask(Protocol):
    """One kind of training: an objective and its examples.

    Every worker builds its own instance, so a task must depend only on its `TrainSpec`.
    """

    @property
    def objective(self) -> nn.Module:
        """The module to minimise; always the same object.

        `forward(batch)` returns scalar tensors by name: "loss", which is minimised, and further figures to log, with
        the same names at every step. Parameters with `requires_grad` are trained. All are float32; the runner adds
        autocast. The runner seeds torch's default generator from seed, step and rank.
        """
        ...

    def draw(self, seed: int, step: int, rank: int, size: int) -> Batch:
        """`size` examples on the CPU; a pure function of its arguments.

        Number the examples of a step across ranks, `rank * size + i`, so that two workers see the same examples as
        one.
        """
        ...

    def finished(self, weights: Mapping[str, Tensor]) -> TrainedModel:
        """The model to save, from the objective's state dict with averaged weights on the CPU.

        The runner calls this on a separate instance of the task, so it may load the weights into its objective.
        """
        ...

    def sample(self, model: Any, folder: Path) -> None:
        """Write samples (PNG, MP4) of the `model` that `finished` returned to `folder`, which exists."""
        ...


TaskBuilder = Callable[[TrainSpec], TrainTask]
