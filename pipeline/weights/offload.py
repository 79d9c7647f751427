"""Layers whose weights stay in their files and are in memory only while they run; the next one is fetched meanwhile.

Two layers are held at a time, so a denoiser needs little more memory than its activations. The values are the same as
without, and so are the bits.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

Loaded = Mapping[str, Tensor]
"""The weights of one layer, by their names in it."""


class OffloadedLayers:
    """Loads each layer of a network before it runs and drops its weights afterwards.

    Args:
        layers: in the order in which they run, with their weights on `meta`.
        read: the weights of the layer with a number, where it computes.
        change: the same weights as they are at present to be, such as with LoRAs.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        read: Callable[[int], Loaded],
        change: Callable[[int, Loaded], Loaded] = lambda _, weights: weights,
    ) -> None:
        self._layers, self._read, self._change = layers, read, change
        self._ahead: tuple[int, Future[Loaded]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="offload")
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(self._loader(number))
            layer.register_forward_hook(self._dropper(number), always_call=True)

    def _loader(self, number: int) -> Callable[..., None]:
        def load(layer: nn.Module, _: Any) -> None:
            if self._ahead is not None and self._ahead[0] == number:
                weights = self._ahead[1].result()
            else:
                weights = self._read(number)
            following = (number + 1) % len(self._layers)
            self._ahead = (following, self._thread.submit(self._read, following)) if following != number else None
            _put(layer, self._change(number, weights))

        return load

    def _dropper(self, number: int) -> Callable[..., None]:
        del number

        def drop(layer: nn.Module, *_: Any) -> None:
            _put(layer, {name: weight.to("meta") for name, weight in layer.named_parameters()})

        return drop


def _put(layer: nn.Module, weights: Loaded) -> None:
    for name, weight in weights.items():
        module, _, leaf = name.rpartition(".")
        layer.get_submodule(module).register_parameter(leaf, nn.Parameter(weight, requires_grad=False))


def fits(needed_bytes: int, device: torch.device) -> bool:
    """Whether that much can be allocated on a device, as far as it can tell."""
    return needed_bytes < free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """The free memory of a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil  # noqa: PLC0415 (only to choose)

    return int(psutil.virtual_memory().available)
