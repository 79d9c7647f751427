"""Tensors of one part of a model, memory-mapped from one or several safetensors files.

Processes of a node that load the same files share their pages. Only tensors that are converted to another dtype or
moved to a device are copied, one by one.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.models.adapted import changed_weights
from longtake.pipeline.names import stays_below
from longtake.pipeline.weights.folder import INDEX, PICKLES, VARIANT, refused
from longtake.pipeline.weights.offload import OffloadedLayers, fits
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.quantize import quantize
from longtake.pipeline.weights.settings import read_settings

DENOISER = "transformer"
"""Prefix of the names of denoiser parts."""

NAMED = 4
"""Number of keys that an error lists."""

Network = TypeVar("Network", bound=nn.Module)


def weight_files(part: Path) -> dict[str, Path]:
    """The file of every tensor of a part, by key.

    Args:
        part: a .safetensors file, or a folder with one, or with shards and their `*.safetensors.index.json`.

    Raises:
        WeightsError: the part has no safetensors files, or its index or a shard is missing or damaged.
    """
    if part.suffix in PICKLES:
        raise refused(str(part))
    if part.is_file():
        return dict.fromkeys(_keys(part), part)
    indexes = _preferred([*part.glob("*.safetensors.index.json")], part)
    files = _preferred([*part.glob("*.safetensors")], part)
    if indexes and (not VARIANT.search(indexes[0].name) or not files or VARIANT.search(files[0].name)):
        return shards_of(indexes[0])
    if len(files) == 1:
        return dict.fromkeys(_keys(files[0]), files[0])
    if files:
        raise WeightsError(f"{part} holds {len(files)} .safetensors files without an index; fetch the model again")
    pickles = sorted(file for file in part.glob("*") if file.suffix in PICKLES) if part.is_dir() else []
    raise refused(str(pickles[0])) if pickles else WeightsError(f"{part} holds no .safetensors file; fetch it again")


def _preferred(files: list[Path], part: Path) -> list[Path]:
    """The plain ones of a part's files, or those of its one variant. Raises `WeightsError` for several variants."""
    plain = sorted(file for file in files if not VARIANT.search(file.name))
    if plain:
        return plain
    variants = {match[1] for file in files if (match := VARIANT.search(file.name))}
    if len(variants) > 1:
        raise WeightsError(
            f"{part} holds the variants {', '.join(sorted(variants))} and no plain weights; keep one of them"
        )
    return sorted(files)


def check_parts(folder: Path, parts: Iterable[str]) -> None:
    """Check all parts of a model before the first one is loaded: a part with a `config.json` must have weights.

    Raises:
        WeightsError: a part is missing, or its weights fail the checks of `weight_files`.
    """
    for part in parts:
        if not (folder / part).is_dir():
            raise WeightsError(f"{folder} has no {part}, which its {INDEX} names; fetch the model again")
        if (folder / part / "config.json").is_file():
            read_settings(folder / part / "config.json")
            weight_files(folder / part)


def on_meta(kind: type[Network], config: Mapping[str, Any], part: Path) -> Network:
    """The network of diffusers' class `kind` that a part's configuration describes, on the `meta` device.

    Raises:
        WeightsError: the configuration is invalid.
    """
    try:
        with torch.device("meta"):
            network: Network = kind.from_config(config)  # type: ignore[attr-defined]
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{part / 'config.json'} is no valid {kind.__name__} ({type(error).__name__}: {error});"
            " fetch the model again"
        ) from error
    return network


def check_tensors(network: nn.Module, part: Path, prefix: str = "") -> dict[str, tuple[Path, str]]:
    """Compare the tensors of a part with a network; only headers are read.

    None may be missing or left over, except for tied weights, which the part may lack, and tensors that the network's
    class ignores (diffusers' and transformers' `_tied_weights_keys`, `_keys_to_ignore_on_load_unexpected`).

    Args:
        network: on any device.
        part: see `weight_files`.
        prefix: prefix of this network's tensors if the part also holds others.

    Returns:
        The file and key in the part of the network's tensors, by their names in the network.

    Raises:
        WeightsError: tensors are missing, left over or have another shape, or a file is damaged.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    tied = getattr(network, "_tied_weights_keys", None) or ()
    ignored = getattr(network, "_keys_to_ignore_on_load_unexpected", None) or ()
    where = {
        key: file
        for key, file in weight_files(part).items()
        if key.startswith(prefix) and (key.removeprefix(prefix) in shapes or not any(name in key for name in ignored))
    }
    named = {key.removeprefix(prefix): (file, key) for key, file in where.items()}
    if isinstance(tied, Mapping):  # transformers names the weight that each tied one is equal to
        named |= {source: named[name] for name, source in tied.items() if name in named and source not in named}
    scales = [key for key in where if key.endswith((".scale_weight", ".weight_scale", "scaled_fp8"))]
    if scales:
        raise WeightsError(
            f"{part} holds 8-bit weights with scales ({_some(scales)}); `longtake convert` makes plain ones of its file"
        )
    with _opened(where) as files:
        found = {name: files[file].get_slice(key).get_shape() for name, (file, key) in named.items()}
    needed = {key: shape for key, shape in shapes.items() if key in found or key not in tied}
    check_fit(network, needed, found, str(part))
    return named


def fill(
    network: Network,
    part: Path,
    load: LoadOptions,
    *,
    prefix: str = "",
    float32: Collection[str] = (),
    layers: str = "",
) -> Network:
    """Fill a network that was built on the `meta` device with the tensors of a part; it is then ready to run.

    Buffers that no file holds and that were computed on `meta` become None, since results with them would be silently
    wrong; see `without_weights`. The alignment of a mapped tensor depends on its place in the file, so differently
    sharded files may change the last bit of products. A denoiser, which diffusers calls `transformer`, is quantized if
    `load` requires it.

    Args:
        part: see `weight_files`.
        prefix: see `check_tensors`, whose errors are raised.
        float32: names of submodules or parameters that keep at least float32.
        layers: the name of the list of layers that are offloaded if `load` says so.

    Raises:
        WeightsError: layers are to be offloaded and quantized.
    """
    kept = set(network.state_dict())
    where = check_tensors(network, part, prefix)
    away = f"{layers}." if layers and _offloads(load, where) else None

    def read(names: Iterable[str]) -> dict[str, Tensor]:
        wanted = {name: where[name] for name in names}
        with _opened({key: file for file, key in wanted.values()}) as files:
            tensors = {name: files[file].get_tensor(key) for name, (file, key) in wanted.items()}
            return {name: x.to(load.device, _dtype(name, x, load, float32)) for name, x in tensors.items()}

    here = [name for name in where if away is None or not name.startswith(away)]
    network.load_state_dict(read(here), strict=False, assign=True)
    if away is not None:
        modules = list(network.get_submodule(layers))  # type: ignore[call-overload]  # a ModuleList

        def read_layer(number: int) -> dict[str, Tensor]:
            start = f"{away}{number}."
            return {name.removeprefix(start): x for name, x in read(n for n in where if n.startswith(start)).items()}

        OffloadedLayers(modules, read_layer, lambda number, x: changed_weights(network, f"{away}{number}.", x))
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta and name not in kept:
            module, _, leaf = name.rpartition(".")
            network.get_submodule(module).register_buffer(leaf, None)
    network.eval().requires_grad_(False)
    if part.name.startswith(DENOISER) and not prefix:
        quantize(network, load, full=tuple(float32))
    return network


def _offloads(load: LoadOptions, where: Mapping[str, tuple[Path, str]]) -> bool:
    """Whether the layers of a part with these tensors are offloaded."""
    if load.offload == "layers" and load.quantize is not None:
        raise WeightsError(f"--offload layers reads weights as they run, and --quantize is {load.quantize}; use one")
    if load.offload != "auto" or load.quantize is not None:
        return load.offload == "layers"
    stored = sum(file.stat().st_size for file in {file for file, _ in where.values()})
    itemsize = 2 if load.dtype is None else load.dtype.itemsize
    return not fits(stored * max(1, itemsize // 2), load.device)


def without_weights(network: Network) -> Network:
    """Move the parameters of a network to `meta`; its computed buffers stay.

    For large networks, build under `torch.device("meta")` instead and recompute the buffers.
    """
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(weight.detach().to("meta"), requires_grad=False))
    return network


def stored_dtype(part: Path) -> torch.dtype:
    """The dtype that most tensors of a part are stored in; only headers are read."""
    where = weight_files(part)
    names: dict[str, int] = {}
    with _opened(where) as files:
        for key, file in where.items():
            name = files[file].get_slice(key).get_dtype()
            names[name] = names.get(name, 0) + 1
    most = max(names, key=lambda name: names[name])
    known = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
    if most.startswith("F8"):
        return torch.bfloat16  # as which `fill` keeps them
    if most not in known:
        raise WeightsError(f"{part} is stored as {most}, which cannot be rendered; use its float8 or bfloat16 copy")
    return known[most]


def header_sizes(part: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    """The shape of each tensor of a part and the bytes of an element as it is rendered; only headers are read."""
    where = weight_files(part)
    found = {}
    with _opened(where) as files:
        for key, file in where.items():
            held = files[file].get_slice(key)
            bits = re.search(r"\d+", held.get_dtype())
            itemsize = int(bits[0]) // 8 if bits else 1
            found[key] = tuple(held.get_shape()), 2 if held.get_dtype().startswith("F8") else itemsize
    return found


def shards_of(index: Path) -> dict[str, Path]:
    """The file of every tensor, by key, of an index of shards. Raises `WeightsError` if any is missing or damaged."""
    try:
        named = dict(json.loads(index.read_bytes())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{index} is not an index of shards ({error!r}); fetch the model again") from error
    if not named:
        raise WeightsError(f"{index} lists no tensors; fetch the model again")
    if outside := sorted({str(name) for name in named.values() if not stays_below(str(name))}):
        raise WeightsError(f"{index} names {outside[0]!r}, which is outside of its folder; use another source")
    where = {key: index.parent / str(name) for key, name in named.items()}
    missing = sorted({file.name for file in where.values() if not file.is_file()})
    if missing:
        total = len(set(where.values()))
        raise WeightsError(
            f"{len(missing)} of {total} shards are missing from {index.parent}: {_some(missing)}; fetch them"
        )
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
                raise WeightsError(f"{file} is damaged or truncated ({error}); fetch it again") from error
        yield files


def check_fit(
    network: nn.Module, shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, Sequence[int]], source: str
) -> None:
    """Raise `WeightsError` if tensors of `source` are missing, left over or have another shape."""
    faults = {
        "missing": sorted(shapes.keys() - found.keys()),
        "left over": sorted(found.keys() - shapes.keys()),
        "of another shape": sorted(
            f"{key} {tuple(found[key])} instead of {shape}"
            for key, shape in shapes.items()
            if key in found and tuple(found[key]) != shape
        ),
    }
    listed = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in faults.items() if keys]
    if listed:
        raise WeightsError(
            f"the tensors of {source} do not fit {type(network).__name__}, of {len(shapes)}: {', '.join(listed)};"
            " configuration and weights must belong to the same model"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _dtype(key: str, tensor: Tensor, load: LoadOptions, float32: Collection[str]) -> torch.dtype:
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():  # float8 without scales: bfloat16 holds its values
        tensor = tensor.new_empty(0, dtype=torch.bfloat16)
    if load.dtype is None or not tensor.is_floating_point():
        return tensor.dtype
    kept = not set(float32).isdisjoint(key.split("."))
    return torch.promote_types(load.dtype, torch.float32) if kept else load.dtype
