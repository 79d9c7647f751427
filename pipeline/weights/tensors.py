"""Tensors of one part of a model, in one or several safetensors files, mapped into memory rather than read.

Who loads the same files in several processes of a node shares their pages: only what is converted to another dtype or
moved to a device is a copy of its own, tensor by tensor.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import WeightsError
from pipeline.weights.folder import PICKLES, refused
from pipeline.weights.options import LoadOptions

NAMED = 4
"""Keys that an error spells out."""

Module = TypeVar("Module", bound=nn.Module)


def weight_files(part: Path) -> dict[str, Path]:
    """Where every tensor of a part lies, by key.

    Args:
        part: a .safetensors file, or a folder with one, or with shards and their `*.safetensors.index.json`.

    Raises:
        WeightsError: there are none, or only pickles; the index or a shard is missing or damaged.
    """
    if part.suffix in PICKLES:
        raise refused(str(part))
    if part.is_file():
        return dict.fromkeys(_keys(part), part)
    indexes, files = sorted(part.glob("*.safetensors.index.json")), sorted(part.glob("*.safetensors"))
    if indexes:
        return _of_index(indexes[0])
    if len(files) == 1:
        return dict.fromkeys(_keys(files[0]), files[0])
    if files:
        raise WeightsError(f"{part} holds {len(files)} .safetensors files and no index that says what they are")
    pickles = sorted(file for file in part.glob("*") if file.suffix in PICKLES) if part.is_dir() else []
    raise refused(str(pickles[0])) if pickles else WeightsError(f"{part} holds no .safetensors file; fetch it again")


def fill(
    module: Module,
    part: Path,
    load: LoadOptions,
    *,
    float32: Sequence[str] = (),
    key_in_file: Callable[[str], str] = str,
) -> Module:
    """Give a module that was built on the `meta` device the tensors of a part, exactly: none missing, none left over.

    Buffers that are no part of a state dict stay as they are.

    Args:
        part: see `weight_files`.
        float32: names of submodules or parameters that keep float32 whatever `load.dtype` says.
        key_in_file: what the file calls a key of the module; two keys that share a tensor have one name there.

    Raises:
        WeightsError: names what is missing, left over or of another shape, or which file is damaged.
    """
    where = weight_files(part)
    wanted = {key: key_in_file(key) for key in module.state_dict()}
    with _opened(where) as files:
        _check(module, wanted, {key: files[file].get_slice(key).get_shape() for key, file in where.items()}, part)
        read: dict[str, Tensor] = {}
        for key, name in wanted.items():
            if name not in read:
                dtype = torch.float32 if _kept(key, float32) else load.dtype
                read[name] = _as(files[where[name]].get_tensor(name), dtype, load.device)
        module.load_state_dict({key: read[name] for key, name in wanted.items()}, assign=True)
    return module.eval().requires_grad_(False)


def stored_dtype(part: Path) -> torch.dtype:
    """The dtype that most tensors of a part are stored in; only headers are read."""
    where = weight_files(part)
    names: dict[str, int] = {}
    with _opened(where) as files:
        for key, file in where.items():
            name = files[file].get_slice(key).get_dtype()
            names[name] = names.get(name, 0) + 1
    most = max(names, key=lambda name: names[name])
    return {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}[most]


def _of_index(index: Path) -> dict[str, Path]:
    try:
        named = json.loads(index.read_bytes())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{index} is no index of shards ({error!r}); fetch the model again") from error
    where = {key: index.parent / str(name) for key, name in named.items()}
    missing = sorted({file.name for file in where.values() if not file.is_file()})
    if missing:
        total = len(set(where.values()))
        raise WeightsError(f"{len(missing)} of {total} shards are not in {index.parent}: {_some(missing)}; fetch them")
    for file in sorted(set(where.values())):
        claimed, held = {key for key in where if where[key] == file}, _keys(file)
        if claimed != held:
            raise WeightsError(
                f"{file} and {index.name} differ in {len(claimed ^ held)} tensors ({_some(sorted(claimed ^ held))});"
                " fetch the model again"
            )
    return where


def _keys(file: Path) -> set[str]:
    with _opened({"": file}) as files:
        return set(files[file].keys())


@contextmanager
def _opened(where: Mapping[str, Path]) -> Iterator[dict[Path, Any]]:
    with ExitStack() as stack:
        files = {}
        for file in sorted(set(where.values())):
            try:
                files[file] = stack.enter_context(safe_open(file, "pt"))
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{file} is damaged or cut short ({error}); fetch it again") from error
        yield files


def _check(module: nn.Module, wanted: Mapping[str, str], found: Mapping[str, Sequence[int]], part: Path) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    names = set(wanted.values())
    faults = {
        "missing": sorted(names - found.keys()),
        "left over": sorted(found.keys() - names),
        "of another shape": sorted(
            f"{name} {tuple(found[name])} in place of {shapes[key]}"
            for key, name in wanted.items()
            if name in found and tuple(found[name]) != shapes[key]
        ),
    }
    told = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in faults.items() if keys]
    if told:
        raise WeightsError(
            f"the tensors of {part} do not fit {type(module).__name__}, of {len(names)}: {', '.join(told)}; its"
            " configuration and its weights must be of one model"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _kept(key: str, float32: Sequence[str]) -> bool:
    return not set(float32).isdisjoint(key.split("."))


def _as(tensor: Tensor, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)
