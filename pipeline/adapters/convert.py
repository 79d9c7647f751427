"""Conversion of published checkpoints to safetensors, for `longtake convert`.

FlashVSR's folder                                          -> one .safetensors file
Wan, LTX-2, Self-Forcing, CausVid, LongLive: a denoiser    -> a folder in diffusers' format
any other checkpoint of tensors by name                    -> one .safetensors file

Every packing that `weights/checkpoint.py` reads is accepted. What a file does not say is asked for by an error that
names the flag: which expert, which base, which causal recipe.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from longtake.pipeline.adapters.flashvsr.projector import Variant
from longtake.pipeline.adapters.flashvsr.weights import PARTS, convert_flashvsr
from longtake.pipeline.adapters.ltx2 import convert as ltx2
from longtake.pipeline.adapters.presets import RECIPES
from longtake.pipeline.adapters.wan import convert as wan
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.checkpoint import (
    SHARD,
    Checkpoint,
    pick_state,
    read_checkpoint,
    tensors_of,
    unpacked,
    unwrap_one,
)
from longtake.pipeline.weights.folder import INDEX, MARK, files_of, read_index
from longtake.pipeline.weights.licence import CARD, LICENCES
from longtake.pipeline.weights.lora import Lora, Naming, lora_of, merge, read_lora
from longtake.pipeline.weights.peft_config import peft_config
from longtake.pipeline.weights.save import save_shards, write_tensors
from longtake.pipeline.weights.settings import read_settings

BIDIRECTIONAL = "none"
"""The recipe of weights that are not causal."""

EXPERTS: Mapping[str, str] = {"high": "transformer", "low": "transformer_2"}
"""The parts of a folder with two experts, by the noise that they are for."""

_CAUSAL_NAMES = re.compile(r"caus|self[-_ ]?forc|longlive|krea", re.IGNORECASE)
"""Names of files whose weights are most likely causal, although nothing in them says so."""


@dataclass(frozen=True)
class Family:
    """A family whose denoisers are converted.

    Args:
        network: diffusers' class.
        is_network: whether unwrapped keys belong to it.
        convert: makes diffusers' configuration and tensors of unwrapped tensors, and None or a configuration.
        naming: of its layers.
        base: a model that its checkpoints can be based on, if their tensors do not say the configuration.
    """

    network: str
    is_network: Callable[[Iterable[str]], bool]
    convert: Callable[..., tuple[dict[str, Any], dict[str, Tensor]]]
    naming: Naming
    base: str | None = None


WAN = Family("WanTransformer3DModel", wan.is_wan, wan.convert_wan, wan.NAMING)
LTX2 = Family("LTX2VideoTransformer3DModel", ltx2.is_ltx2, ltx2.convert_ltx2, ltx2.NAMING, base="Lightricks/LTX-2")
FAMILIES = (WAN, LTX2)


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `longtake convert`.

    Args:
        recipe: key of `RECIPES` for causal weights, or "none" for others; by default detected.
        state: the checkpoint's key or prefix that holds the tensors; by default detected.
        base: a folder in diffusers' format that provides the configuration and the other parts.
        lora: a file with a LoRA to merge.
        lora_alpha: alpha of the LoRA; by default that of the file, or its rank.
        strength: of the LoRA.
        expert: which of the two experts of `base` the checkpoint is.
        variant: variant of FlashVSR.
        dtype: precision of the result; by default as stored.
    """

    recipe: str | None = None
    state: str | None = None
    base: Path | None = None
    lora: Path | None = None
    lora_alpha: float | None = None
    strength: float = 1.0
    expert: Literal["high", "low"] | None = None
    variant: Variant | None = None
    dtype: torch.dtype | None = None


def convert(source: Path, out: Path, options: ConvertOptions) -> str:
    """Convert `source` to `out`, and return a description of what it held, what was not used and what was assumed.

    Raises:
        WeightsError: `source` does not exist, would execute code, is incomplete, ambiguous or of an unknown kind; or
        `out` exists.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise WeightsError(f"{out} exists and is not overwritten; use another OUT")
    if options.lora_alpha == 0:
        raise WeightsError("--lora-alpha is 0, which merges nothing; use a positive value, such as the LoRA's rank")
    if source.is_dir() and any(source.glob("*.distcp")):
        raise WeightsError(
            f"{source} is a distributed checkpoint of PyTorch; make one file of it: python -m"
            f" torch.distributed.checkpoint.format_utils dcp_to_torch {source} FILE"
        )
    if source.is_dir() and (_is_flashvsr(source) or not _has_tensors(source)):
        return _flashvsr(source, out, options)
    checkpoint = read_checkpoint(source)
    state, packed = pick_state(checkpoint, options.state)
    for family in FAMILIES:
        tensors, found = unwrap_one(packed, family.is_network, source)
        if family.is_network(tensors):
            tensors, notes = unpacked(tensors, source)
            notes = [*checkpoint.found, *found, *notes]
            return _denoiser(family, _Read(checkpoint, state, tensors, tuple(notes)), out, options)
    tensors, notes = unpacked(packed, source)
    if out.suffix != ".safetensors":
        raise WeightsError(
            f"{source} {what_it_holds(source, packed)}; to have its tensors in one file, end OUT in .safetensors"
        )
    write_tensors({key: tensor.to(options.dtype or tensor.dtype) for key, tensor in tensors.items()}, out)
    return "; ".join((f"{len(tensors)} tensors by name", *checkpoint.found, *notes))


@dataclass(frozen=True)
class _Read:
    """A denoiser's tensors, unwrapped and in floating point, and what was found on the way."""

    checkpoint: Checkpoint
    state: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


_KINDS: Mapping[str, str] = {
    r"lora_|\.lora\.|\.lokr_|\.hada_|\.diff(?:_b)?$": (
        "is a LoRA, not a denoiser; name it with --lora, here or in a render"
    ),
    r"(?:^|\.)(?:text_encoders?|text_model|shared|token_embedding|embed_tokens|encoder\.block\.0)(?:\.|$)": (
        "is a text encoder, not a denoiser; it belongs to a folder in diffusers' format, which --base names"
    ),
    r"(?:^|\.)(?:visual|vision_model)\.": (
        "is an image encoder, not a denoiser; it belongs to a folder in diffusers' format, which --base names"
    ),
    r"(?:^|\.)(?:encoder|decoder|vocoder)\..*conv": (
        "is a VAE, not a denoiser; it belongs to a folder in diffusers' format, which --base names"
    ),
}
"""Patterns of the keys of files that are taken for a denoiser, and what to say of them."""


def what_it_holds(source: Path, keys: Iterable[str]) -> str:
    """What a file is that is no denoiser of a known family."""
    if shard := SHARD.search(source.name):
        return f"is one of {int(shard[1])} shards; name their index, or the folder that holds them"
    for pattern, kind in _KINDS.items():
        if any(re.search(pattern, key) for key in keys):
            return kind
    return "is not a Wan model nor an LTX-2"


def _is_flashvsr(source: Path) -> bool:
    return any(file.stem in PARTS for file in source.iterdir())


def _has_tensors(source: Path) -> bool:
    experts = ("high_noise_model", "low_noise_model")
    return any(source.glob("*.safetensors")) or any((source / name).is_dir() for name in experts)


def _flashvsr(source: Path, out: Path, options: ConvertOptions) -> str:
    if out.suffix != ".safetensors":
        raise WeightsError(
            f"{source} is a folder, so it must be FlashVSR's, which becomes one file: end OUT in .safetensors"
        )
    variant = convert_flashvsr(source, out, options.variant, dtype=options.dtype or torch.bfloat16)
    return f"FlashVSR {variant}"


def _denoiser(family: Family, read: _Read, out: Path, options: ConvertOptions) -> str:
    part = _part(options)
    recipe = _recipe(read, options)
    config = None if options.base is None else _base_config(options.base, family)
    if config is None and family.base is not None:
        raise WeightsError(
            f"{read.checkpoint.source} does not state its configuration; name its model with --base, such as"
            f" {family.base}"
        )
    if config is None and "num_heads" in read.checkpoint.config and family is WAN:
        config = wan.infer_config(wan.named_tensors(read.tensors), int(read.checkpoint.config["num_heads"]))
    config, converted = family.convert(read.tensors, config, dtype=options.dtype)
    lora = _lora(family, converted, read.checkpoint.contents, options)
    if lora is not None:
        merge(converted, lora, options.strength)
    try:
        _write(config, converted, recipe, out, (part, options.base))
    except OSError as error:
        raise WeightsError(f"{out} cannot be written: {error}; use a writable OUT") from error
    kind = "LTX-2" if family is LTX2 else "Wan"
    said = [f"{recipe or kind}, {len(converted)} tensors{f' of {read.state}' if read.state else ''}", *read.notes]
    if recipe is None:
        said.append("assumed: bidirectional weights; --recipe names causal ones")
    else:
        said.append(f"rendered causally: {RECIPES[recipe].source}")
    return "; ".join([*said, *([] if lora is None else [lora.describe()])])


def _part(options: ConvertOptions) -> str:
    """The part of the folder that the checkpoint becomes."""
    if options.base is None:
        return EXPERTS[options.expert or "high"]
    two = (options.base / EXPERTS["low"]).is_dir()
    if two and options.expert is None:
        raise WeightsError(f"--base {options.base} has two experts; add --expert high or --expert low")
    if options.expert == "low" and not two:
        raise WeightsError(f"--expert is low, and --base {options.base} has one expert; leave --expert out")
    return EXPERTS[options.expert or "high"]


def _base_config(base: Path, family: Family) -> dict[str, Any]:
    """The configuration of the denoiser in `base`."""
    read_index(base)
    config = read_settings(base / "transformer" / "config.json")
    if config.get("_class_name") != family.network:
        name = "Wan" if family is WAN else "LTX-2"
        raise WeightsError(
            f"--base {base} holds a {config.get('_class_name')}, but the checkpoint is a {name}; name a folder of"
            f" {name}"
        )
    return config


def _write(
    config: dict[str, Any],
    converted: Mapping[str, Tensor],
    recipe: str | None,
    out: Path,
    into: tuple[str, Path | None],
) -> None:
    name, base = into
    part = out.with_name(f"{out.name}.part")  # a killed process leaves no folder that looks complete
    shutil.rmtree(part, ignore_errors=True)
    save_shards(converted, part / name)
    (part / name / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    if recipe is not None:
        (part / MARK).write_text(json.dumps(RECIPES[recipe].mark(), indent=2), encoding="utf-8")
        where = RECIPES[recipe].repository
        card = f"---\nlicense: {LICENCES[where]}\nbase_model: {where}\n---\nConverted by longtake from {where}.\n"
        (part / CARD).write_text(card, encoding="utf-8")
    if base is not None:
        _complete(base, part, name, bidirectional=recipe is None)
    part.replace(out)


def _lora(
    family: Family, converted: Mapping[str, Tensor], contents: Mapping[str, Any], options: ConvertOptions
) -> Lora | None:
    """The LoRA to merge: that of the option, or the one in the checkpoint."""
    layout = {key: tuple(tensor.shape) for key, tensor in converted.items()}
    if options.lora is not None:
        config = peft_config(str(options.lora))
        return read_lora(options.lora, layout, family.naming, options.lora_alpha, config=config)
    within = contents.get("generator_lora")
    if not isinstance(within, dict):
        return None
    return lora_of(tensors_of(within), layout, family.naming, options.lora_alpha, name="generator_lora")


def _recipe(read: _Read, options: ConvertOptions) -> str | None:
    """The recipe of causal weights; None for bidirectional ones."""
    known = " or ".join(RECIPES)
    if options.recipe == BIDIRECTIONAL:
        return None
    if options.recipe is not None:
        if options.recipe not in RECIPES:
            raise WeightsError(f"--recipe is {options.recipe}; use {', '.join((*RECIPES, BIDIRECTIONAL))}")
        return options.recipe
    state = read.state.rpartition(".")[2]
    generator = state in ("generator", "generator_ema")
    if generator and _has_longlive_lora(read.checkpoint.contents, options.lora):
        channels = read.tensors["patch_embedding.weight"].shape[1]
        return "longlive-2" if channels == 48 else "longlive"
    if state == "generator_ema":
        return "self-forcing"
    if generator:
        raise WeightsError(f"the checkpoint holds a generator of unknown origin; add --recipe {known}")
    if _CAUSAL_NAMES.search(read.checkpoint.source.name):
        raise WeightsError(
            f"{read.checkpoint.source.name} does not say how its weights attend, and its name sounds causal; add"
            f" --recipe"
            f" {known}, or --recipe {BIDIRECTIONAL}"
        )
    return None


def _has_longlive_lora(contents: Mapping[str, Any], lora: Path | None) -> bool:
    """Whether a LoRA lies under the key under which LongLive publishes its own."""
    return "generator_lora" in (contents if lora is None else read_checkpoint(lora).contents)


def _complete(base: Path, out: Path, part: str, *, bidirectional: bool) -> None:
    """Add the other parts of a model: hard links if possible, else copies; the index comes last."""
    left_out = {INDEX, MARK} if bidirectional else {INDEX, MARK, CARD}
    for name in files_of(base):
        if name in left_out or name.startswith(f"{part}/"):
            continue
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        file = (base / name).resolve()
        try:
            os.link(file, place)
        except OSError:
            shutil.copyfile(file, place)
    shutil.copyfile(base / INDEX, out / INDEX)
