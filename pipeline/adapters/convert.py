"""Conversion of published checkpoints to safetensors, for `longtake convert`.

FlashVSR's folder                                        -> one .safetensors file
Wan, Self-Forcing, CausVid, LongLive: one checkpoint     -> a folder in diffusers' format
any other pickle or safetensors file of tensors by name  -> one .safetensors file
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from longtake.pipeline.adapters.flashvsr.projector import Variant
from longtake.pipeline.adapters.flashvsr.weights import convert_flashvsr
from longtake.pipeline.adapters.wan.convert import Lora, convert_wan, is_wan, unwrap
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.folder import INDEX, MARK, files_of, read_index, unreadable
from longtake.pipeline.weights.licence import CARD, LICENCES
from longtake.pipeline.weights.save import save_shards, write_tensors
from longtake.pipeline.weights.settings import read_settings

STATES = ("generator_ema", "generator", "state_dict", "model", "module")
"""Keys under which checkpoints hold a model's tensors, averaged weights first."""

_FOUR_STEPS = {"steps": 4, "guidance": 1.0, "schedule": [1.0, 0.9375, 5 / 6, 0.625], "solver": "renoise"}
"""Timesteps 1000, 750, 500, 250 under shift 5: s -> 5 s / (1 + 4 s)."""

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "self-forcing": {"chunk_latents": 3, "window": 6, "sink": 0, "sampling": _FOUR_STEPS},
    "longlive": {"chunk_latents": 3, "window": 2, "sink": 1, "sampling": _FOUR_STEPS},
    "causvid": {
        "chunk_latents": 3,
        "window": 6,
        "sink": 0,
        "sampling": {"steps": 3, "guidance": 1.0, "schedule": [1.0, 0.757, 0.522], "solver": "renoise"},
    },
}
"""How causal weights were trained: in chunks of 3 latents, with attention over 21 latents (Self-Forcing, CausVid) or 12
(LongLive, 3 of them the sink), including the current chunk."""

REPOSITORIES = {
    "self-forcing": "gdhe17/Self-Forcing",
    "longlive": "Efficient-Large-Model/LongLive-1.3B",
    "causvid": "tianweiy/CausVid",
}
"""The repository of each recipe's checkpoints."""


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `longtake convert`.

    Args:
        recipe: key of `RECIPES` for causal weights; by default detected.
        state: the checkpoint's key that holds the tensors; by default detected.
        base: a folder in diffusers' format that provides the configuration and the other parts.
        lora: a file with a LoRA to merge.
        lora_alpha: alpha of the LoRA; by default its rank.
        variant: variant of FlashVSR.
        dtype: precision of the result; by default as stored.
    """

    recipe: str | None = None
    state: str | None = None
    base: Path | None = None
    lora: Path | None = None
    lora_alpha: float | None = None
    variant: Variant | None = None
    dtype: torch.dtype | None = None


def convert(source: Path, out: Path, options: ConvertOptions) -> str:
    """Convert `source` to `out`, and return a description of what it holds.

    Raises:
        WeightsError: `source` does not exist, would execute code, is incomplete or of an unknown kind; or `out` exists.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise WeightsError(f"{out} exists and is not overwritten; use another OUT")
    if options.lora_alpha == 0:
        raise WeightsError("--lora-alpha is 0, which merges nothing; use a positive value, such as the LoRA's rank")
    if source.is_dir():
        return _flashvsr(source, out, options)
    checkpoint = read_checkpoint(source)
    state, tensors = pick_state(checkpoint, options.state, source)
    tensors = unwrap(tensors)
    if is_wan(tensors):
        return _wan(state, tensors, checkpoint, out, options)
    if out.suffix != ".safetensors":
        raise WeightsError(f"{source} is not a Wan model; its tensors go to one file: end OUT in .safetensors")
    write_tensors({key: tensor.to(options.dtype or tensor.dtype) for key, tensor in tensors.items()}, out)
    return f"{len(tensors)} tensors by name"


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The contents of a safetensors file or a pickle; a pickle may hold only tensors and plain values.

    Raises:
        WeightsError: the file cannot be read, or is a pickle with other contents.
    """
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        try:
            read = torch.load(file, "cpu", weights_only=True, mmap=True)
        except RuntimeError:  # written by a torch before 1.6
            read = torch.load(file, "cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{file} does not exist; name a checkpoint") from error
    except Exception as error:  # a pickle may fail in any way
        raise unreadable(file, error) from error
    if not isinstance(read, dict):
        raise WeightsError(f"{file} holds a {type(read).__name__}, not named tensors; name a checkpoint")
    return read


def pick_state(checkpoint: Mapping[str, Any], spec: str | None, source: Path) -> tuple[str, dict[str, Tensor]]:
    """The key that holds a checkpoint's tensors, "" for the top level, and the tensors."""
    if spec is not None and spec not in checkpoint:
        raise WeightsError(f"{source} holds no {spec!r}; it holds {', '.join(list(checkpoint)[:8])}")
    for key in (spec,) if spec is not None else STATES:
        state = checkpoint.get(key)
        if isinstance(state, dict) and _tensors(state):
            return key, _tensors(state)
    if tensors := _tensors(checkpoint):
        return "", tensors
    raise WeightsError(f"{source} holds no named tensors under {', '.join(STATES)}; name the key with --state KEY")


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _flashvsr(source: Path, out: Path, options: ConvertOptions) -> str:
    if out.suffix != ".safetensors":
        raise WeightsError(
            f"{source} is a folder, so it must be FlashVSR's, which becomes one file: end OUT in .safetensors"
        )
    variant = convert_flashvsr(source, out, options.variant, dtype=options.dtype or torch.bfloat16)
    return f"FlashVSR {variant}"


def _wan(
    state: str, tensors: dict[str, Tensor], checkpoint: Mapping[str, Any], out: Path, options: ConvertOptions
) -> str:
    lora = _lora(checkpoint, options)
    recipe = _recipe(state, lora, options)
    config = None if options.base is None else _base_config(options.base)
    config, converted = convert_wan(tensors, config, lora, options.dtype)
    try:
        _write_wan(config, converted, recipe, out, options.base)
    except OSError as error:
        raise WeightsError(f"{out} cannot be written: {error}; use a writable OUT") from error
    return f"{recipe or 'Wan'}, {len(converted)} tensors{f' of {state}' if state else ''}"


def _base_config(base: Path) -> dict[str, Any]:
    """The configuration of the Wan denoiser in `base`."""
    read_index(base)
    config = read_settings(base / "transformer" / "config.json")
    if config.get("_class_name") != "WanTransformer3DModel":
        raise WeightsError(
            f"--base {base} holds a {config.get('_class_name')}, but the checkpoint is a Wan; name a folder of Wan"
        )
    return config


def _write_wan(
    config: dict[str, Any], converted: Mapping[str, Tensor], recipe: str | None, out: Path, base: Path | None
) -> None:
    part = out.with_name(f"{out.name}.part")  # a killed process leaves no folder that looks complete
    shutil.rmtree(part, ignore_errors=True)
    save_shards(converted, part / "transformer")
    (part / "transformer" / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    if recipe is not None:
        mark = {"rollout": "causal", **RECIPES[recipe]}
        (part / MARK).write_text(json.dumps(mark, indent=2), encoding="utf-8")
        where = REPOSITORIES[recipe]
        card = f"---\nlicense: {LICENCES[where]}\nbase_model: {where}\n---\nConverted by longtake from {where}.\n"
        (part / CARD).write_text(card, encoding="utf-8")
    if base is not None:
        _complete(base, part)
    part.replace(out)


def _lora(checkpoint: Mapping[str, Any], options: ConvertOptions) -> Lora | None:
    within = checkpoint.get("generator_lora")
    if options.lora is not None:
        read = read_checkpoint(options.lora)
        within = read.get("generator_lora", read)
        if not isinstance(within, dict) or not _tensors(within):
            raise WeightsError(f"--lora {options.lora} holds no named tensors; use another file")
    return Lora(_tensors(within), options.lora_alpha) if isinstance(within, dict) else None


def _recipe(state: str, lora: Lora | None, options: ConvertOptions) -> str | None:
    """The recipe of causal weights; None for bidirectional ones."""
    if options.recipe is not None:
        if options.recipe not in RECIPES:
            raise WeightsError(f"--recipe is {options.recipe}; use {', '.join(RECIPES)}")
        return options.recipe
    if lora is not None:
        return "longlive"
    if state == "generator_ema":
        return "self-forcing"
    if state == "generator":
        raise WeightsError(f"the checkpoint holds a generator of unknown origin; add --recipe {' or '.join(RECIPES)}")
    return None


def _complete(base: Path, out: Path) -> None:
    """Add the parts of a model other than the denoiser: hard links if possible, else copies; the index comes last."""
    for name in files_of(base):
        if name in (INDEX, MARK, CARD) or name.startswith("transformer/"):
            continue
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        file = (base / name).resolve()
        try:
            os.link(file, place)
        except OSError:
            shutil.copyfile(file, place)
    shutil.copyfile(base / INDEX, out / INDEX)
