"""How much memory weights take, from the headers of their files alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol, runtime_checkable

from longtake.pipeline.weights.offload import free_bytes
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.tensors import DENOISER, header_sizes

ENCODER = "text_encoder"


@dataclass(frozen=True)
class PartBytes:
    """The bytes of a part's weights in memory.

    Args:
        total: of all weights.
        layers: of those that `--offload layers` leaves in their files.
        largest: of the largest layer.
    """

    total: int
    layers: int = 0
    largest: int = 0

    @property
    def offloaded(self) -> int:
        """With `--offload layers`: what is outside of layers, one layer that runs and one that is fetched."""
        return self.total - self.layers + min(2 * self.largest, self.layers)


@runtime_checkable
class Weighed(Protocol):
    """A model whose weights are counted before they are loaded."""

    def part_bytes(self) -> Mapping[str, PartBytes]:
        """By part of its folder."""
        ...


def part_bytes(part: Path, load: LoadOptions, layers: str = "") -> PartBytes:
    """The bytes of a part's weights as `load` keeps them.

    Args:
        layers: the name of the list of layers that can be offloaded.
    """
    total, by_layer = 0, dict[str, int]()
    for key, (shape, itemsize) in header_sizes(part).items():
        kept = itemsize if load.dtype is None else load.dtype.itemsize
        if load.quantize is not None and part.name.startswith(DENOISER) and len(shape) == 2:
            kept = 1
        count = prod(shape) * kept
        total += count
        if layers and key.startswith(f"{layers}."):
            layer = key.removeprefix(f"{layers}.").partition(".")[0]
            by_layer[layer] = by_layer.get(layer, 0) + count
    return PartBytes(total, sum(by_layer.values()), max(by_layer.values(), default=0))


@dataclass(frozen=True)
class MemoryNeed:
    """What a model needs in one process, next to what is free.

    Args:
        parts: of the model.
        held: bytes of weights at once, with the offloading that was asked for.
        kv: bytes of the KV store.
        free: bytes on the device.
        read: bytes that are read for each pass.
    """

    parts: Mapping[str, PartBytes]
    held: int
    kv: int
    free: int
    read: int

    @property
    def total(self) -> int:
        """Bytes of all weights."""
        return sum(part.total for part in self.parts.values())

    @property
    def offloaded(self) -> tuple[int, int]:
        """With `--offload layers`: bytes of the largest denoiser that are held, and that are read for each pass."""
        denoisers = [part for name, part in self.parts.items() if name.startswith(DENOISER)]
        largest = max(denoisers, key=lambda part: part.total)
        return largest.offloaded, largest.layers

    @property
    def fits(self) -> bool:
        """Whether weights and KV store fit; activations come on top."""
        return self.held + self.kv < self.free


def memory_need(model: Weighed, load: LoadOptions, kv: int) -> MemoryNeed:
    """The memory that a model needs, counted before anything is loaded."""
    parts, free = model.part_bytes(), free_bytes(load.device)
    denoisers = [part for name, part in parts.items() if name.startswith(DENOISER)]
    away = load.offload == "layers" or (
        load.offload == "auto" and load.quantize is None and sum(part.total for part in denoisers) >= free
    )
    held = sum(part.total for name, part in parts.items() if not name.startswith(DENOISER))
    if load.offload == "encoder" and ENCODER in parts:  # held while prompts are embedded, before the denoiser
        held -= parts[ENCODER].total
    held += sum(part.offloaded if away else part.total for part in denoisers)
    read = max((part.layers for part in denoisers), default=0) if away else 0
    return MemoryNeed(parts, held, kv, free, read)
