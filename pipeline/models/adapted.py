"""LoRAs that run next to a network's own weights, unmerged, so that scenes and noise levels can have different ones.

A change of low rank is added to the output of its layer. Every other change (a bias, a norm, a modulation, DoRA) is
written into its parameter while it is in use, from a copy of the parameter that is kept.

Shapes: o output and i input width of a layer, r rank.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.memory import PROMPTS, Latest
from longtake.pipeline.attention.rope import Ropes
from longtake.pipeline.models.protocols import Block, BlockDenoiser, Stream, Tokens

NETWORKS = "_longtake_applied"
"""The attribute of a network that names what is applied to it."""


class ParameterChange(Protocol):
    """A change of one parameter; `weights.lora.Change` is one."""

    @property
    def scale(self) -> float: ...
    @property
    def up(self) -> Tensor | None: ...
    @property
    def down(self) -> Tensor | None: ...
    @property
    def is_low_rank(self) -> bool: ...
    def delta(self, weight: Tensor) -> Tensor:
        """What is added to the weight."""
        ...


@dataclass(frozen=True)
class Applied:
    """A LoRA as it is applied to one network.

    Args:
        changes: by parameter of the network.
        strength: factor of the changes.
        scenes: where it is in use; None for all.
        noise: the highest and the lowest noise level at which it is in use; None for all.
    """

    changes: Mapping[str, ParameterChange]
    strength: float = 1.0
    scenes: tuple[int, ...] | None = None
    noise: tuple[float, float] | None = None

    def is_used(self, scene: int, level: float) -> bool:
        """Whether it is in use in a pass of a scene at a noise level."""
        if self.scenes is not None and scene not in self.scenes:
            return False
        if self.noise is None:
            return True
        high, low = self.noise
        return low < level <= high or (level == low == 0)


@runtime_checkable
class Adaptable(Protocol):
    """A model whose networks LoRAs can change."""

    def adaptables(self) -> "Mapping[str, AdaptableNetwork]":
        """Its networks by part, such as "transformer" or "text"."""
        ...


@dataclass(frozen=True)
class AdaptableNetwork:
    """A network that LoRAs can change.

    Args:
        layout: shapes of its parameters, by key; known without weights.
        when_loaded: calls a function with the network once it is loaded, or now if it is.
        own: the network's name of a key of its own or of the original code.
        original: the original code's name of a layer.
    """

    layout: Mapping[str, Sequence[int]]
    when_loaded: Callable[[Callable[[nn.Module], None]], None]
    own: Callable[[str], str] = str
    original: Callable[[str], str] = str


def detach(network: nn.Module) -> None:
    """Leave a network as it is without LoRAs."""
    applied = getattr(network, NETWORKS, None)
    if applied is not None:
        applied.detach()


class NetworkLoras:
    """The LoRAs of one network, of which those of the present scene and noise level are in use.

    Args:
        loras: in the order in which they are added.
    """

    def __init__(self, loras: Sequence[Applied]) -> None:
        self._loras, self._used = loras, [False] * len(loras)
        self._kept: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._network: nn.Module | None = None

    @property
    def by_noise(self) -> bool:
        """Whether some of them are in use at some noise levels only."""
        return any(lora.noise is not None for lora in self._loras)

    def attach(self, network: nn.Module) -> None:
        """Apply to a loaded network, in place of what was applied to it before."""
        detach(network)
        if not self._loras:
            return
        self._network = network
        setattr(network, NETWORKS, self)
        for layer, mine in self._low_rank(network).items():
            self._hooks.append(network.get_submodule(layer).register_forward_hook(_Addition(self, mine)))
        self._write()

    def detach(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._network is not None:
            for key, base in self._kept.items():
                _write_parameter(self._network, key, base)
            delattr(self._network, NETWORKS)
        self._kept.clear()
        self._network = None

    def use(self, scene: int, level: float) -> None:
        """Put those in use that belong to a pass of `scene` at a noise level."""
        used = [lora.is_used(scene, level) for lora in self._loras]
        if used != self._used:
            self._used = used
            self._write()

    @property
    def used(self) -> tuple[bool, ...]:
        """Which of them are in use."""
        return tuple(self._used)

    def in_use(self, index: int) -> bool:
        """Whether the LoRA with this index is in use."""
        return self._used[index]

    def strength(self, index: int) -> float:
        """The strength of the LoRA with this index."""
        return self._loras[index].strength

    def _low_rank(self, network: nn.Module) -> dict[str, list[tuple[int, ParameterChange]]]:
        """The changes that are added to outputs, by layer, each with the index of its LoRA."""
        found: dict[str, list[tuple[int, ParameterChange]]] = {}
        for index, lora in enumerate(self._loras):
            for key, change in lora.changes.items():
                if _is_added(network, key, change):
                    found.setdefault(key.removesuffix(".weight"), []).append((index, change))
        return found

    def _write(self) -> None:
        """Write the parameters whose changes cannot be added to an output."""
        if self._network is None:
            return
        for key in {key for lora in self._loras for key in lora.changes}:
            present = _parameter(self._network, key)
            if present.is_meta and key not in self._kept:
                continue  # of an offloaded layer; it is changed when it is loaded, see `changed_weights`
            if not self._written(key) and key not in self._kept:
                continue
            base = self._kept.setdefault(key, present.detach())
            _write_parameter(self._network, key, self.changed(key, base))

    def changed(self, key: str, base: Tensor) -> Tensor:
        """A parameter with those changes in use that are not added to an output."""
        changes = self._written(key)
        if not changes:
            return base
        changed = base.to(torch.promote_types(base.dtype, torch.float32))
        for strength, change in changes:
            changed = changed + strength * change.delta(base)
        return changed.to(base.dtype)

    def _written(self, key: str) -> list[tuple[float, ParameterChange]]:
        """The changes in use of a parameter that are written into it, with their strengths."""
        assert self._network is not None
        return [
            (lora.strength, lora.changes[key])
            for lora, used in zip(self._loras, self._used, strict=True)
            if used and key in lora.changes and not _is_added(self._network, key, lora.changes[key])
        ]


def changed_weights(network: nn.Module, start: str, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights of an offloaded layer as the LoRAs in use change them.

    Args:
        start: of the keys of the layer's parameters in the network.
    """
    applied = getattr(network, NETWORKS, None)
    if applied is None:
        return weights
    return {name: applied.changed(f"{start}{name}", weight) for name, weight in weights.items()}


class _Addition:
    """The forward hook of one layer: adds the changes that are in use to its output [... o] for an input [... i]."""

    def __init__(self, loras: NetworkLoras, mine: Sequence[tuple[int, ParameterChange]]) -> None:
        self._loras, self._mine = loras, mine
        self._placed: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (x,) = inputs
        for index, change in self._mine:
            if self._loras.in_use(index):
                down, up = self._matrices(index, change, x)
                output = output + functional.linear(functional.linear(x, down), up).to(output.dtype)
        return output

    def _matrices(self, index: int, change: ParameterChange, x: Tensor) -> tuple[Tensor, Tensor]:
        """`down` [r i] and `up` [o r], scaled, where the layer computes; placed once."""
        key = (index, x.device, x.dtype)
        if key not in self._placed:
            assert change.up is not None
            assert change.down is not None
            factor = self._loras.strength(index) * change.scale
            down, up = change.down.to(x.device, x.dtype), (factor * change.up.float()).to(x.device, x.dtype)
            self._placed[key] = (down, up)
        return self._placed[key]


def _is_added(network: nn.Module, key: str, change: ParameterChange) -> bool:
    layer, _, leaf = key.rpartition(".")
    return leaf == "weight" and change.is_low_rank and isinstance(network.get_submodule(layer), nn.Linear)


def _parameter(network: nn.Module, key: str) -> Tensor:
    layer, _, leaf = key.rpartition(".")
    parameter: Tensor = getattr(network.get_submodule(layer), leaf)
    return parameter


def _write_parameter(network: nn.Module, key: str, value: Tensor) -> None:
    layer, _, leaf = key.rpartition(".")
    network.get_submodule(layer).register_parameter(leaf, nn.Parameter(value, requires_grad=False))


class LoraDenoiser(BlockDenoiser):
    """A denoiser whose LoRAs are those of the present scene and noise level. It hands on one copy of a prompt for each
    set of LoRAs in use, because layers recognize by its memory a prompt whose keys and values they have made.

    Args:
        denoiser: of a model whose networks `loras` are attached to.
        loras: of each of its networks.
    """

    def __init__(self, denoiser: BlockDenoiser, loras: Sequence[NetworkLoras]) -> None:
        self._denoiser, self._loras = denoiser, loras
        self._by_noise = any(each.by_noise for each in loras)
        self._texts: Latest[Tensor] = Latest(PROMPTS)
        self.scene = 0

    @property
    @override
    def rope(self) -> Ropes:
        return self._denoiser.rope

    @property
    @override
    def blocks(self) -> Iterator[Block]:
        return iter(self._denoiser.blocks)

    @override
    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        return self._denoiser.sites(latent_height, latent_width, chunk_latents, chunk_audio)

    @override
    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        level = float(max(stream.host_sigma.max() for stream in streams.values())) if self._by_noise else 0.0
        for each in self._loras:
            each.use(self.scene, level)
        used = tuple(each.used for each in self._loras)
        return self._denoiser.embed(streams, self._texts.of(text, used, text.clone))

    @override
    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        return self._denoiser.head(tokens, streams)
