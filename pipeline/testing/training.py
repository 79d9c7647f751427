"""A lesson that is learned in a second: one linear layer of the tiny model. It shows that the runner works."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import Batch


class LinearObjective(nn.Module):
    """How far a linear layer is from the examples it is shown."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `TrainTask.objective`; batch holds `x [b in]` and `y [b out]`."""
        away = self.layer(batch["x"]).float() - batch["y"]
        return {"loss": away.square().mean(), "away": away.abs().amax()}


class LinearTask:
    """Teach the first linear layer of a tiny model a fixed random map; see `TrainTask`.

    Args:
        poisoned_step: the step whose examples hold a NaN, to see what then happens; none by default.
    """

    def __init__(self, seed: int = 0, poisoned_step: int = -1) -> None:
        self._model, self._poisoned_step = EmbeddedModel.untrained(TINY, seed), poisoned_step
        layer = next(module for module in self._model.denoiser.modules() if isinstance(module, nn.Linear))
        self._map = torch.randn(layer.out_features, layer.in_features, generator=torch.Generator().manual_seed(seed))
        self._layer, self.objective = layer, LinearObjective(layer)

    def draw(self, seed: int, step: int, rank: int, size: int) -> Batch:
        """See `TrainTask.draw`."""
        rows = [self._row(seed, step, rank * size + index) for index in range(size)]
        x = torch.stack(rows)
        if step == self._poisoned_step and rank == 0:
            x[0] = torch.nan
        return {"x": x, "y": x @ self._map.T}

    def _row(self, seed: int, step: int, index: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_000_003 + index)
        return torch.randn(self._layer.in_features, generator=generator)

    def finished(self, weights: Mapping[str, Tensor]) -> EmbeddedModel:
        """See `TrainTask.finished`."""
        self.objective.load_state_dict(weights)
        return self._model

    def sample(self, model: EmbeddedModel, folder: Path) -> None:
        """See `TrainTask.sample`; a line of text will do."""
        (folder / "model.txt").write_text(model.fingerprint() + "\n")


def build_linear_task(spec: TrainSpec) -> LinearTask:
    """A `LessonBuilder`; `options.poisoned_step` names the step to spoil."""
    return LinearTask(spec.seed, int(spec.options.get("poisoned_step", -1)))
