"""A training task that takes a second, to test the runner: one linear layer of the tiny model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import Batch


class LinearObjective(nn.Module):
    """The squared error of a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, and the largest error, of a batch with `x [b in]` and `y [b out]`."""
        away = self.layer(batch["x"]).float() - batch["y"]
        return {"loss": away.square().mean(), "away": away.abs().amax()}


class LinearTask:
    """Trains the first linear layer of a tiny model on a fixed random map; a `TrainTask`.

    Args:
        poisoned_step: a step whose examples hold a NaN; none by default.
    """

    def __init__(self, seed: int = 0, poisoned_step: int = -1) -> None:
        self._model, self._poisoned_step = EmbeddedModel.untrained(TINY, seed), poisoned_step
        layer = next(module for module in self._model.denoiser.modules() if isinstance(module, nn.Linear))
        self._map = torch.randn(layer.out_features, layer.in_features, generator=torch.Generator().manual_seed(seed))
        self._layer, self.objective = layer, LinearObjective(layer)

    def draw(self, seed: int, step: int, rank: int, size: int) -> Batch:
        """Random inputs and their images under the map."""
        rows = [self._row(seed, step, rank * size + index) for index in range(size)]
        x = torch.stack(rows)
        if step == self._poisoned_step and rank == 0:
            x[0] = torch.nan
        return {"x": x, "y": x @ self._map.T}

    def _row(self, seed: int, step: int, index: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_000_003 + index)
        return torch.randn(self._layer.in_features, generator=generator)

    def finished(self, weights: Mapping[str, Tensor]) -> EmbeddedModel:
        """The tiny model with the trained layer."""
        self.objective.load_state_dict(weights)
        return self._model

    def sample(self, model: EmbeddedModel, folder: Path) -> None:
        """Write the model's fingerprint to a text file."""
        (folder / "model.txt").write_text(model.fingerprint() + "\n")


def build_linear_task(spec: TrainSpec) -> LinearTask:
    """A `TaskBuilder`; `options.poisoned_step` sets the poisoned step."""
    return LinearTask(spec.seed, int(spec.options.get("poisoned_step", -1)))
