"""The load options that --dtype, --quantize, --compile and --device stand for on this node."""

from typing import get_args

import ray
import torch

from longtake.actors.cluster import joined, joins
from longtake.actors.node_cache import on_this_node
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.devices import check_device
from longtake.pipeline.weights.options import Compile, LoadOptions, Offload, Quantization, check_numerics

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS: dict[str, Quantization] = {kind: kind for kind in get_args(Quantization)}


def load_options(
    dtype: str | None = None,
    quantize: str | None = None,
    device: str = "cpu",
    offload: str = "none",
    numerics: str = "exact",
    compile: str = "auto",  # noqa: A002 (the flag's name)
) -> LoadOptions:
    """The load options of these flags on this node. Raises `SpecError` for unknown values.

    Args:
        device: "cpu" or "cuda"; "auto" is resolved by `resolve_device`.
        compile: "none", "blocks", or "auto": nothing on a CPU, the blocks on a GPU.
    """
    for flag, value, known in (("--dtype", dtype, DTYPES), ("--quantize", quantize, QUANTIZATIONS)):
        if value is not None and value not in known:
            raise SpecError(f"{flag} is {value}; use {', '.join(known)}, or leave it out to keep weights as stored")
    known_offload: Offload | None = next((known for known in get_args(Offload) if known == offload), None)
    if known_offload is None:
        raise SpecError(f"--offload is {offload}; use {', '.join(get_args(Offload))}")
    check_device(device, here=False)
    return on_this_node(
        LoadOptions(
            dtype=None if dtype is None else DTYPES[dtype],
            device=torch.device(device),
            quantize=None if quantize is None else QUANTIZATIONS[quantize],
            offload=known_offload,
            numerics=check_numerics(numerics),
            compile=_compile(compile, device),
        )
    )


def _compile(value: str, device: str) -> Compile:
    if value == "auto":
        return "none" if device == "cpu" else "blocks"
    known: Compile | None = next((known for known in get_args(Compile) if known == value), None)
    if known is None:
        graphs = "CUDA graphs are not built yet; " if value == "graphs" else ""
        raise SpecError(f"--compile is {value}; {graphs}use auto, {' or '.join(get_args(Compile))}")
    return known


def resolve_device(device: str, *, in_process: bool = False, address: str | None = None) -> str:
    """`device`, or for "auto" what models run on: "cuda" if there is a GPU where they run, otherwise "cpu".

    Args:
        in_process: models run in this process.
        address: of the Ray cluster that they run on otherwise; see `cluster.joined`. A cluster that exists is asked.
    """
    if device != "auto":
        return device
    if in_process or not joins(address):
        return "cuda" if torch.cuda.is_available() else "cpu"
    with joined(address):
        return "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"
