"""8-bit weights with torchao: half or a quarter of the memory. Quantization changes the film's bits."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.options import LoadOptions

FLOAT8_CAPABILITY = (8, 9)
"""The lowest CUDA compute capability with float8 (Ada)."""


def check_quantize(load: LoadOptions) -> None:
    """Raise `WeightsError` if this machine cannot quantize as `load` requires."""
    if load.quantize is None:
        return
    if find_spec("torchao") is None:
        raise WeightsError(
            f"quantize is {load.quantize}, which needs torchao: pip install 'longtake[quantize]', or leave it out"
        )
    if load.device.type not in ("cpu", "cuda"):
        raise WeightsError(
            f"quantize is {load.quantize}; {load.device.type} does not support it, use cpu or cuda, or leave it out"
        )
    if load.quantize == "float8" and load.device.type == "cuda":
        capability = torch.cuda.get_device_capability(load.device)
        if capability < FLOAT8_CAPABILITY:
            raise WeightsError(
                f"quantize is float8; {torch.cuda.get_device_name(load.device)} has compute capability"
                f" {'.'.join(map(str, capability))}, float8 needs 8.9; use int8"
            )


def quantize(module: nn.Module, load: LoadOptions, *, full: Sequence[str] = ()) -> None:
    """Quantize the weights of all linear layers of `module` to 8 bits if `load` requires it.

    Args:
        full: names of submodules to leave unquantized.
    """
    check_quantize(load)
    if load.quantize is None:
        return
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_  # noqa: PLC0415

    configs: dict[str, Callable[[], Any]] = {"int8": Int8WeightOnlyConfig, "float8": Float8WeightOnlyConfig}

    def is_matrix(layer: nn.Module, name: str) -> bool:
        if not isinstance(layer, nn.Linear) or not set(full).isdisjoint(name.split(".")):
            return False
        # torchao divides by the largest weight of a row without a lower bound for float8: a row of zeros gives NaN.
        return load.quantize != "float8" or bool((layer.weight != 0).any(dim=1).all())

    quantize_(module, configs[load.quantize](), filter_fn=is_matrix)
