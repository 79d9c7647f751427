"""Checkpoints in every published packing, read as plain tensors by key.

Files: safetensors (also as `.sft`), pickles, GGUF, an index of shards, or a folder of shards. Values: floating point,
float8 with or without scales, int8 with scales, and GGUF's block formats. A file's first bytes say what it is, not its
name. Nothing is executed, and whatever is neither used nor understood is named.

Sources of the packings: safetensors' format; ComfyUI's `scaled_fp8` (`scale_weight`, `scale_input`) and `comfy_quant`;
compressed-tensors (`weight_scale`, `input_scale`); optimum-quanto (`weight._data`, `weight._scale`); the gguf package.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.folder import unreadable
from longtake.pipeline.weights.tensors import shards_of

STATES = (
    *("generator_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema", "generator", "state_dict"),
    *("model_state_dict", "model", "module", "params", "weights", "transformer", "dit", "net"),
)
"""Keys under which checkpoints hold a model's tensors, averaged weights first."""

OTHERS = re.compile(r"critic|score|teacher|discriminator")
"""Names of networks that training uses next to the one that it trains."""

_PICKLES = (b"PK", b"\x80")
"""How the files of `torch.save` begin: with a zip archive, or with a pickle."""

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)

WRAPPERS = (
    *("model", "module", "diffusion_model", "base_model", "transformer", "dit", "net", "ema", "ema_model", "generator"),
    *("generator_ema", "student", "unet", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"),
)
"""Names that training and node graphs put before a network's own keys."""

PREFIX = re.compile(rf"^(?:(?:{'|'.join(sorted(WRAPPERS, key=len, reverse=True))})\.)+")
INNER = re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
"""Wrapper names that training adds to keys: as a prefix, and anywhere."""

SHARD = re.compile(r"-\d+-of-(\d+)\.safetensors$")
"""The end of the name of a shard."""

_SCALES = ("scale_weight", "weight_scale", "scale")
_ASIDE = re.compile(r"(?:^|\.)(?:scale_input|input_scale|scaled_fp8|comfy_quant|__index_timestep_zero__)$")
_PACKED = {
    "absmax": "bitsandbytes",
    "quant_state": "bitsandbytes",
    "qweight": "SVDQuant or GPTQ",
    "wscales": "SVDQuant",
    "weight_scale_2": "NVFP4",
    "weight_scale_inv": "float8 in blocks",
    "weight_packed": "compressed integers",
}
"""Parts of packings that are not read, and what they are called."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder holds.

    Args:
        source: the file or folder.
        contents: tensors by key, or dictionaries of them, with other plain values.
        metadata: of a safetensors or GGUF file.
        found: what was found and assumed, in sentences without a full stop.
        config: of the network, from a config.json beside shards.
    """

    source: Path
    contents: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(source: Path) -> Checkpoint:
    """The contents of a file or of a folder of shards; a pickle may hold only tensors and plain values.

    Raises:
        WeightsError: the source cannot be read, is not a checkpoint, or is a pickle with other contents.
    """
    if source.is_dir():
        return _read_folder(source)
    try:
        with source.open("rb") as opened:
            first = opened.read(9)
    except OSError as error:
        raise WeightsError(f"{source} does not exist; name a checkpoint") from error
    if source.name.endswith(".index.json"):
        return Checkpoint(source, _read_shards(shards_of(source)), found=(f"shards of {source.name}",))
    if first[:4] == b"GGUF":
        return _read_gguf(source)
    if first[8:9] == b"{":
        tensors, metadata = _read_safetensors(source)
        return Checkpoint(source, tensors, metadata)
    if first.startswith(_PICKLES):
        return Checkpoint(source, _read_pickle(source))
    if first.startswith(b"version h"):
        raise WeightsError(f"{source} is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
    if not first:
        raise WeightsError(f"{source} is empty, so it is no safetensors, GGUF or PyTorch file; fetch it again")
    if first.lstrip()[:1] == b"<":
        raise WeightsError(f"{source} is a web page, not weights; fetch it from the file's own address, logged in")
    raise WeightsError(f"{source} is no safetensors, GGUF or PyTorch file; fetch it again from the source")


def pick_state(checkpoint: Checkpoint, spec: str | None) -> tuple[str, dict[str, Tensor]]:
    """The key or prefix that holds a checkpoint's tensors, "" for the top level, and the tensors."""
    contents, source = checkpoint.contents, checkpoint.source
    if spec is not None:
        if isinstance(contents.get(spec), dict):
            return spec, tensors_of(contents[spec])
        nested = states_of(contents)
        if spec in nested:
            return spec, nested[spec]
        start = f"{spec.rstrip('.')}."
        if inside := {key.removeprefix(start): x for key, x in tensors_of(contents).items() if key.startswith(start)}:
            return spec, inside
        raise WeightsError(f"{source} holds no {spec!r}; it holds {', '.join(list(contents)[:8])}")
    for key in STATES:
        state = contents.get(key)
        if isinstance(state, dict) and tensors_of(state):
            return key, tensors_of(state)
    if tensors := tensors_of(contents):
        return "", tensors
    every = states_of(contents)
    nested = {path: held for path, held in every.items() if not OTHERS.search(path)}
    ranks = {path: STATES.index(name) for path in nested if (name := path.rpartition(".")[2]) in STATES}
    if ranks or len(nested) == 1:
        path = min(ranks, key=ranks.__getitem__) if ranks else next(iter(nested))
        return path, nested[path]
    if every:
        raise WeightsError(f"{source} holds {', '.join(every)}; choose one with --state {' or '.join(nested or every)}")
    held = f"it holds {', '.join(list(contents)[:8])}" if contents else "it is empty"
    raise WeightsError(f"{source} holds no named tensors, {held}; name a checkpoint of a network")


def states_of(contents: Mapping[str, Any], depth: int = 3) -> dict[str, dict[str, Tensor]]:
    """The dictionaries of tensors in a checkpoint, by their path with dots, without those of an optimizer."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in contents.items():
        key = str(name)  # optimizers count their states
        if not isinstance(value, dict) or "optim" in key:
            continue
        if tensors := tensors_of(value):
            found[key] = tensors
        elif depth:
            found |= {f"{key}.{path}": inner for path, inner in states_of(value, depth - 1).items()}
    return found


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among the values of `state`."""
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def unwrap(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their keys without the wrappers of training and of node graphs."""
    return {INNER.sub("", PREFIX.sub("", INNER.sub("", key))): tensor for key, tensor in tensors.items()}


def unwrap_one(
    tensors: Mapping[str, Tensor], is_network: Callable[[Iterable[str]], bool], source: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the one network of a checkpoint, under their own keys, and what was found and left aside.

    Args:
        is_network: whether unwrapped keys belong to a network that is wanted.

    Raises:
        WeightsError: several such networks are found; one must be named.
    """
    groups = _by_prefix(tensors)
    networks = [prefix for prefix, held in groups.items() if is_network(held)]
    if not networks:
        groups, networks = _by_unknown_prefix(tensors, is_network)
    if len(networks) > 1:
        named = " or ".join(f"--state {prefix.rstrip('.') or '(without a prefix)'}" for prefix in sorted(networks))
        raise WeightsError(f"{source} holds {len(networks)} networks; choose one with {named}")
    if not networks:
        return unwrap(tensors), []
    (prefix,) = networks
    if OTHERS.search(prefix):
        raise WeightsError(f"{source} holds only {prefix.rstrip('.')}; add --state {prefix.rstrip('.')} to use that")
    found = [f"keys begin with {prefix}"] if prefix else []
    rest = {name: held for name, held in groups.items() if name != prefix and name}
    named_apart = {key.partition(".")[0] for key in groups.get("", {})} if prefix else set()
    others = sorted({*named_apart, *(name.rstrip(".") for name in rest)})
    count = sum(len(held) for name, held in groups.items() if name != prefix)
    if count:
        found.append(f"{count} tensors of other networks were not used ({', '.join(others)})")
    return groups[prefix], found


def _by_prefix(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by the wrappers before their own keys."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        inner = INNER.sub("", key)
        own = PREFIX.sub("", inner)
        groups.setdefault(inner.removesuffix(own), {})[own] = tensor
    return groups


def _by_unknown_prefix(
    tensors: Mapping[str, Tensor], is_network: Callable[[Iterable[str]], bool], depth: int = 3
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """The tensors of networks under prefixes of up to `depth` unknown names, all others under "", and the prefixes."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        names = INNER.sub("", key).split(".")
        for count in range(1, min(depth, len(names) - 1) + 1):
            groups.setdefault(".".join(names[:count]) + ".", {})[".".join(names[count:])] = tensor
    networks = [prefix for prefix, held in groups.items() if is_network(held)]
    rest = {key: x for key, x in tensors.items() if not key.startswith(tuple(networks))}
    return {"": rest} | {prefix: groups[prefix] for prefix in networks}, networks


def unpacked(tensors: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The same weights in floating point, without the tensors that only describe their packing, and what was found.

    Raises:
        WeightsError: the packing is not supported, or scales are missing.
    """
    plain, notes = {}, dict[str, int]()
    scales = {key for key in tensors if _scaled_key(key, tensors) is not None}
    for key, tensor in tensors.items():
        if (packing := _PACKED.get(key.rpartition(".")[2])) is not None:
            raise WeightsError(
                f"{source} is packed as {packing} ({key}), which is not supported; use the float8, int8, GGUF or"
                " bfloat16 file of this model"
            )
        if key in scales or _ASIDE.search(key):
            continue
        own = key.removesuffix("._data")
        plain[own], note = _plain(own, tensor, _scale_of(own, tensors), source)
        if note:
            notes[note] = notes.get(note, 0) + 1
    scaled, bare = notes.get(_SCALED.format("float8"), 0), notes.get(_BARE, 0)
    if bare and (scaled or any(key.endswith("scaled_fp8") for key in tensors)):
        raise WeightsError(
            f"{source} holds {scaled} tensors in float8 with scales and {bare} whose scales are missing, so their"
            " values are lost; fetch it again, or use another file"
        )
    return plain, [f"{count} tensors {note}" for note, count in notes.items()]


_SCALED = "were {} with scales, now float32"
_BARE = "were float8 without scales, now bfloat16, which holds the same values"


def _plain(key: str, tensor: Tensor, scale: Tensor | None, source: Path) -> tuple[Tensor, str]:
    """A tensor in floating point, and what was done to it; "" if nothing was."""
    if scale is not None and (tensor.dtype in FLOAT8 or tensor.dtype == torch.int8):
        kind = "int8" if tensor.dtype == torch.int8 else "float8"
        return tensor.float() * _broadcast(key, tensor, scale, source), _SCALED.format(kind)
    if tensor.dtype in FLOAT8:
        return tensor.to(torch.bfloat16), _BARE
    if tensor.is_floating_point():
        return tensor, ""
    if tensor.dtype == torch.int8:
        raise WeightsError(
            f"{source} holds {key} as int8 without scales, so its values are lost; use the file with scales, or another"
        )
    if tensor.dim() > 1:
        raise WeightsError(
            f"{source} holds {key} as {str(tensor.dtype).removeprefix('torch.')}, an unknown packing; use the float8,"
            " int8, GGUF or bfloat16 file of this model"
        )
    return tensor, ""


def _scale_of(key: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    layer = key.removesuffix(".weight")
    names = [f"{key}._scale", *(f"{layer}.{name}" for name in _SCALES)] if layer != key else [f"{key}._scale"]
    return next((tensors[name] for name in names if name in tensors), None)


def _scaled_key(key: str, tensors: Mapping[str, Tensor]) -> str | None:
    """The key of the weight that `key` is the scale of; None if it is no scale."""
    layer, _, leaf = key.rpartition(".")
    if leaf == "_scale":
        return layer
    weight = f"{layer}.weight"
    return weight if leaf in _SCALES and weight in tensors and not tensors[weight].dtype.itemsize > 1 else None


def _broadcast(key: str, tensor: Tensor, scale: Tensor, source: Path) -> Tensor:
    """A scale of the whole tensor or of each of its rows, as a factor of the tensor."""
    scale = scale.float()
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.numel() == tensor.shape[0]:
        return scale.reshape(-1, *[1] * (tensor.dim() - 1))
    raise WeightsError(
        f"{source} holds {key} {tuple(tensor.shape)} with scales {tuple(scale.shape)}; scales of a tensor or of its"
        " rows are supported, use another file of this model"
    )


# ------------------------------------------------------------------ files


def _read_folder(folder: Path) -> Checkpoint:
    experts = [name for name in ("high_noise_model", "low_noise_model") if (folder / name).is_dir()]
    if experts:
        raise WeightsError(
            f"{folder} holds two experts; convert each: longtake convert {folder / experts[0]} OUT --expert high,"
            f" and the"
            " other with --expert low"
        )
    indexes, files = sorted(folder.glob("*.index.json")), sorted(folder.glob("*.safetensors"))
    if not indexes and files and all(SHARD.search(file.name) for file in files):
        raise WeightsError(f"{folder} holds shards without their index, a file .safetensors.index.json; fetch it too")
    if len(indexes) > 1 or (not indexes and len(files) != 1):
        held = ", ".join(file.name for file in (indexes or files)) or "no .safetensors file"
        raise WeightsError(f"{folder} holds {held}; name the one checkpoint or index to convert")
    config = folder / "config.json"
    try:
        settings = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    except ValueError as error:
        raise WeightsError(f"{config} cannot be read as JSON ({error}); fetch it again") from error
    read = read_checkpoint((indexes or files)[0])
    return Checkpoint(folder, read.contents, read.metadata, read.found, settings if isinstance(settings, dict) else {})


def _read_shards(where: Mapping[str, Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(where.values())):
        tensors |= _read_safetensors(file)[0]
    return tensors


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, "pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} is damaged or truncated ({error}); fetch it again") from error


def _read_pickle(file: Path) -> dict[str, Any]:
    try:
        # Training scripts store their options next to the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            try:
                read = torch.load(file, "cpu", weights_only=True, mmap=True)
            except RuntimeError:  # written by a torch before 1.6
                read = torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # a pickle may fail in any way
        raise unreadable(file, error) from error
    if not isinstance(read, dict):
        raise WeightsError(f"{file} holds a {type(read).__name__}, not named tensors; name a checkpoint")
    return read


def _read_gguf(file: Path) -> Checkpoint:
    try:
        from gguf import GGMLQuantizationType, GGUFReader  # noqa: PLC0415 (only for such files)
        from gguf.quants import dequantize  # noqa: PLC0415
    except ImportError as error:
        raise WeightsError(f"{file} is GGUF, which needs the package gguf: pip install gguf") from error
    shapes: dict[str, list[int]] = {}
    tensors, kinds = {}, set()
    plain = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.F64}
    try:
        reader = GGUFReader(file)
        for name, held in reader.fields.items():
            if name.startswith("comfy.gguf.orig_shape."):
                shapes[name.removeprefix("comfy.gguf.orig_shape.")] = [int(held.parts[i][0]) for i in held.data]
        for each in reader.tensors:
            kinds.add(each.tensor_type.name)
            values = each.data if each.tensor_type in plain else dequantize(each.data, each.tensor_type)
            tensors[each.name] = torch.from_numpy(values.copy())
            if each.name in shapes:
                tensors[each.name] = tensors[each.name].reshape(shapes[each.name])
    except Exception as error:  # the reader checks little, and fails in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(f"{file} cannot be read as GGUF ({reason}); fetch it again") from error
    return Checkpoint(file, tensors, found=(f"GGUF of {', '.join(sorted(kinds))}, dequantized to float32",))
