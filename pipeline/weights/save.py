"""Write tensors to safetensors files, sharded if they are large, in diffusers' layout."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from longtake.pipeline.errors import WeightsError

STEM = "diffusion_pytorch_model"
SHARD_BYTES = 5 * 10**9


def save_shards(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write a part of a model: one file, or shards of at most `shard_bytes` and then their index."""
    shards: list[dict[str, Tensor]] = [{}]
    free_bytes = shard_bytes
    for key, tensor in tensors.items():
        if tensor.nbytes > free_bytes and shards[-1]:
            shards.append({})
            free_bytes = shard_bytes
        shards[-1][key] = tensor
        free_bytes -= tensor.nbytes
    count = len(shards)
    names = [f"{STEM}-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    if count == 1:
        names = [f"{STEM}.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        write_tensors(shard, folder / name)
    if count > 1:
        where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": where}
        (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return [folder / name for name in names]


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write one safetensors file; it gets its name once it is complete."""
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part)
        part.replace(file)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} cannot be written: {error}") from error
