"""Training of a LoRA for the embedded model: flow matching, as for the denoiser, of changes of low rank alone.

Sources: Hu et al., LoRA, arXiv 2106.09685. A share of the clips is of what the model draws already (prior preservation,
Ruiz et al., DreamBooth, arXiv 2208.12242), so that other prompts keep their films.

Shapes: b clips, o output and i input width of a layer, r rank.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.training.denoiser import DenoiserOptions, DenoiserTask, FlowMatching
from longtake.pipeline.training.mixed import MixedClips
from longtake.pipeline.training.options import read_options
from longtake.pipeline.training.source import ClipSource
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import Batch
from longtake.pipeline.training.world import TAUGHT_COLOURS
from longtake.pipeline.weights.lora import TrainedLora

MAX_RANK = 1024

PREFIX = "transformer."
"""Of the network that a LoRA changes, in diffusers' keys."""


@dataclass(frozen=True)
class LoraOptions:
    """Options of LoRA training, in addition to `DenoiserOptions`.

    Args:
        rank: of each change.
        layers: patterns of the linear layers that are changed, such as "blocks.*.video.*", separated by commas.
        keep: share of clips of the synthetic world, for prompts that should keep their films.
        colour: the colour to learn where there is no data.
    """

    rank: int = 4
    layers: str = "*"
    keep: float = 0.5
    colour: str = next(iter(TAUGHT_COLOURS))


class LoraTask:
    """Trains a LoRA of a frozen model."""

    def __init__(self, spec: TrainSpec, model: EmbeddedModel, taught: ClipSource, kept: ClipSource) -> None:
        options, flow = lora_options(spec)
        self._model, self._no_text = model.requires_grad_(False), flow.no_text
        self._source = MixedClips(taught, kept, options.keep)
        # Without its prompt, a clip to learn would change what guidance pushes away from.
        named = {**asdict(flow), "no_text": 0.0}
        self._flow = DenoiserTask(spec.model_copy(update={"options": named}), model, self._source)
        assert isinstance(self._flow.objective, FlowMatching)
        self._low_rank = LowRankChanges(model.denoiser, chosen_layers(model, options.layers), options.rank)
        self._flow.objective.changes = self._low_rank
        self.objective: nn.Module = self._flow.objective

    def draw(self, seed: int, step: int, rank: int, size: int) -> Batch:
        """A batch of the denoiser's; clips to keep may be without a prompt."""
        batch = self._flow.draw(seed, step, rank, size)
        bare = np.random.default_rng((seed, step, 1, rank)).random(size) < self._no_text
        kept = [self._source.is_kept(number) for number in range(rank * size, (rank + 1) * size)]
        batch["words"][torch.from_numpy(bare) & torch.tensor(kept)] = 0
        return batch

    def finished(self, weights: Mapping[str, Tensor]) -> TrainedLora:
        """The LoRA under diffusers' keys, with what its readers should know."""
        self.objective.load_state_dict(weights)
        return self._low_rank.named(self._model.name)

    def sample(self, model: TrainedLora, folder: Path) -> None:
        """Write no samples: `longtake render --lora ...` shows more than a sample could."""


def lora_options(spec: TrainSpec) -> tuple[LoraOptions, DenoiserOptions]:
    """The options of a configuration. Raises `SpecError` for unknown and impossible ones."""
    options: LoraOptions
    options, flow = read_options(spec.options, LoraOptions, DenoiserOptions)
    if not 1 <= options.rank <= MAX_RANK:
        raise SpecError(f"options.rank is {options.rank}; use 1 to {MAX_RANK}")
    if not 0 <= options.keep < 1:
        raise SpecError(f"options.keep is {options.keep:g}; use 0 or more, and less than 1")
    if options.colour not in TAUGHT_COLOURS:
        raise SpecError(f"options.colour is {options.colour!r}; use {' or '.join(map(repr, TAUGHT_COLOURS))}, or data")
    return options, flow


def chosen_layers(model: EmbeddedModel, patterns: str) -> list[str]:
    """The linear layers of the denoiser that `patterns` name. Raises `SpecError` for a pattern without any."""
    layers = [name for name, layer in model.denoiser.named_modules() if isinstance(layer, nn.Linear)]
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in wanted:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise SpecError(
                f"options.layers is {patterns!r}; no layer matches {pattern!r}, they are called {', '.join(layers[:3])}"
                f" ... {layers[-1]}"
            )
    return [layer for layer in layers if any(fnmatchcase(layer, pattern) for pattern in wanted)]


class LowRankChanges(nn.Module):
    """Trained changes of low rank, added to the outputs of a network's layers.

    Args:
        layers: names of linear layers.
    """

    def __init__(self, network: nn.Module, layers: list[str], rank: int) -> None:
        super().__init__()
        self._layers, self._rank = layers, rank
        self._pairs = [LowRank(network.get_submodule(name), rank) for name in layers]
        self.pairs = nn.ModuleList(self._pairs)

    def named(self, model: str) -> TrainedLora:
        """The changes under diffusers' keys, with the name of the model that they change."""
        tensors = {}
        for name, pair in zip(self._layers, self._pairs, strict=True):
            tensors[f"{PREFIX}{name}.lora_A.weight"] = pair.down.weight.detach()
            tensors[f"{PREFIX}{name}.lora_B.weight"] = pair.up.weight.detach()
        config = {
            "r": self._rank,
            "lora_alpha": self._rank,
            "target_modules": self._layers,
            "base_model_name_or_path": model,
        }
        stated = {f"{PREFIX}{key}": value for key, value in config.items()}
        # One key alone: the safetensors package writes several in a random order, so that equal files would differ.
        return TrainedLora(tensors, {"lora_adapter_metadata": json.dumps(stated)})


class LowRank(nn.Module):
    """A change of one linear layer, zero until it is trained."""

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        assert isinstance(layer, nn.Linear)
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
        layer.register_forward_hook(self._added)

    def _added(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added: Tensor = self.up(self.down(inputs[0]))
        return output + added
