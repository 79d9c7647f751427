"""LoRAs in every published form, read as changes of a network's parameters.

Forms, by their keys: diffusers and peft (`transformer.X.lora_A.weight`, `base_model.model.X.lora_B.default.weight`),
kohya and musubi (`lora_unet_X.lora_down.weight`, with `_` for `.`), node graphs (`diffusion_model.X.lora_up.weight`,
full differences `X.diff`, `X.diff_b`, `X.diff_m`), each with or without `alpha`; DoRA (`dora_scale`, or peft's
`lora_magnitude_vector`; Liu et al., arXiv 2402.09353).

Shapes: o output and i input width of a layer, r rank.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.checkpoint import INNER, WRAPPERS, read_checkpoint, states_of, tensors_of

NAMED = 4
"""Number of keys that a message lists."""

_TEXT = re.compile(r"^(?:lora_te\d?_|text_encoders?\.|text_encoder_\d\.|te\d?\.|text_embedding_projection\.)")
_UNSUPPORTED = {
    "lokr": "LoKr", "hada": "LoHa", "oft_": "OFT", "boft": "BOFT", "glora": "GLoRA", "loha": "LoHa", "vera_": "VeRA",
    "ia3_": "IA3", "lora_mid": "LoCon with a core", "lora_E": "AdaLoRA",
}  # fmt: skip
_KOHYA = re.compile(r"^(?:lora|lycoris)_(?P<layer>[^.]+)(?P<rest>\..+)$")
_PART = re.compile(
    r"^(?P<layer>.+?)\.(?P<part>lora_A|lora_B|lora_down|lora_up|lora_magnitude_vector|alpha|dora_scale|diff_b|diff_m|diff"
    r"|lora\.down|lora\.up)(?:\.(?!weight$|bias$)(?P<adapter>[\w.-]+?))?(?:\.(?P<leaf>weight|bias))?$"
)
_SIDES = {"lora_A": "down", "lora_down": "down", "lora.down": "down"} | {
    "lora_B": "up", "lora_up": "up", "lora.up": "up", "lora_magnitude_vector": "magnitude", "dora_scale": "magnitude",
}  # fmt: skip
SECOND = "transformer_2."
"""The prefix of keys of a second expert."""

Layout = Mapping[str, Sequence[int]]
"""The shapes of a network's parameters, by key."""


@dataclass(frozen=True)
class Naming:
    """The names of a network's layers in its own code and in the original one.

    Args:
        own: the network's name of a key of either code.
        original: the original code's name of a layer of the network.
    """

    own: Callable[[str], str] = str
    original: Callable[[str], str] = str


@dataclass(frozen=True)
class Change:
    """How a LoRA changes one parameter, at strength 1: by `full`, or by `up` [o r] times `down` [r i] times `scale`.

    Args:
        magnitude: DoRA's norms of the changed weight, along `magnitude_dim`; None without DoRA.
    """

    up: Tensor | None = None
    down: Tensor | None = None
    scale: float = 1.0
    full: Tensor | None = None
    magnitude: Tensor | None = None

    @property
    def is_low_rank(self) -> bool:
        """Whether it is a product of two matrices, whatever the weight."""
        return self.up is not None and self.magnitude is None

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to the weight, in float32 or finer."""
        precise = torch.promote_types(weight.dtype, torch.float32)
        if self.full is not None:
            return self.full.to(weight.device, precise).reshape(weight.shape)
        assert self.up is not None
        assert self.down is not None
        up, down = (x.flatten(1).to(weight.device, precise) for x in (self.up, self.down))
        change = (self.scale * (up @ down)).reshape(weight.shape)
        if self.magnitude is None:
            return change
        base = weight.to(precise)
        changed = base + change
        norm, magnitude = _norms(changed, self.magnitude.to(weight.device, precise))
        return changed * (magnitude / norm) - base


@dataclass(frozen=True)
class Lora:
    """The changes in one file.

    Args:
        name: of the file.
        changes: by parameter of the network, for each of its experts if the file tells them apart: the keys of a second
            one begin with `SECOND`.
        text: keys for a text encoder, which are not used.
        unused: keys of layers that the network lacks.
    """

    name: str
    changes: Mapping[str, Change]
    text: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def describe(self) -> str:
        """Which layers it changes and which of its keys are not used, in one line."""
        said = f"{self.name} changes {len(self.changes)} parameters ({some(sorted(self.changes))})"
        if self.text:
            said += f"; {len(self.text)} keys for the text encoder are not used ({some(self.text)})"
        if self.unused:
            said += f"; {len(self.unused)} keys are not used, this model has no such layers ({some(self.unused)})"
        return said


@dataclass(frozen=True)
class TrainedLora:
    """A LoRA that was trained here.

    Args:
        tensors: by diffusers' keys.
        metadata: of its file.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


@dataclass
class _Parts:
    name: str
    held: dict[str, Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)


def read_lora(
    file: Path,
    layout: Layout,
    naming: Naming,
    alpha: float | None = None,
    *,
    model: str = "this model",
    config: str | None = None,
) -> Lora:
    """The changes that the LoRA in a file makes to a network.

    Args:
        layout: shapes of the network's parameters.
        naming: of its layers.
        alpha: strength times rank; by default that of the file, or the rank.
        model: its name, for errors.
        config: the text of peft's file next to it; see `peft_config.peft_config`.

    Raises:
        WeightsError: the file is no LoRA, of an unsupported kind, or of another model.
    """
    checkpoint = read_checkpoint(file)
    contents = checkpoint.contents
    nested = states_of(contents)
    tensors = nested.get("generator_lora") or tensors_of(contents) or next(iter(nested.values()), {})
    if not tensors:
        raise WeightsError(f"--lora {file} holds no named tensors; use another file")
    stated = StatedAlpha(alpha) if alpha is not None else stated_alpha(checkpoint.metadata, config)
    return lora_of(tensors, layout, naming, stated, name=file.name, model=model)


def lora_of(
    tensors: Mapping[str, Tensor],
    layout: Layout,
    naming: Naming = Naming(),
    alpha: "StatedAlpha | float | None" = None,
    *,
    name: str = "the LoRA",
    model: str = "this model",
) -> Lora:
    """The changes that a LoRA's tensors make to a network; see `read_lora`."""
    stated = alpha if isinstance(alpha, StatedAlpha) else StatedAlpha(alpha)
    text = tuple(key for key in tensors if _TEXT.match(key))
    layers, odd = _by_layer({key: x for key, x in tensors.items() if key not in text}, layout, naming, name)
    changes: dict[str, Change] = {}
    unused: list[str] = list(odd)
    for layer, parts in layers.items():
        found = _changes(layer, parts, layout, stated, (name, model))
        if not found:
            unused += parts.keys
        changes |= found
    if not changes:
        if not layers:
            raise WeightsError(f"{name} {_no_lora(odd, text, layout, naming)}; use another file")
        raise WeightsError(
            f"{name} is a LoRA of another model: {model} has no such layer as {some(unused)}; use one of it"
        )
    return Lora(name, changes, text, tuple(sorted(unused)))


def _no_lora(odd: Sequence[str], text: Sequence[str], layout: Layout, naming: Naming) -> str:
    """What a file without changes of the network holds."""
    if text and not odd:
        return f"changes a text encoder alone ({some(text)}), which is no LoRA of a film model"
    whole = [key for key in odd if naming.own(_WRAPPED.sub("", key)) in layout]
    if len(whole) > len(odd) / 2:
        return f"is a whole checkpoint ({some(whole)}), which is no LoRA: make a model of it with `longtake convert`"
    return f"holds {some(odd) or 'nothing'}, which is no LoRA"


def merge(tensors: dict[str, Tensor], lora: Lora, strength: float = 1.0) -> None:
    """Add a LoRA's changes to a network's tensors, computed in float32."""
    for key, change in lora.changes.items():
        weight = tensors[key]
        precise = torch.promote_types(weight.dtype, torch.float32)
        tensors[key] = (weight.to(precise) + strength * change.delta(weight)).to(weight.dtype)


def some(names: Sequence[str]) -> str:
    """The first few of some names."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _by_layer(
    tensors: Mapping[str, Tensor], layout: Layout, naming: Naming, name: str
) -> tuple[dict[str, _Parts], list[str]]:
    """The parts of each changed layer, under the network's name of the layer, and the keys that are none."""
    flat = _flat_names(layout, naming)
    layers: dict[str, _Parts] = {}
    odd = []
    for key, tensor in tensors.items():
        for mark, kind in _UNSUPPORTED.items():
            if f".{mark}" in key:
                raise WeightsError(
                    f"{name} is a {kind} ({key}), which is not supported; use a LoRA or merge it elsewhere"
                )
        match = _PART.match(_unflattened(key, flat))
        if match is None:
            odd.append(key)
            continue
        _check_values(key, tensor, name)
        expert = SECOND if SECOND in key else ""
        layer = expert + _layer_of(match["layer"], layout, naming.own)
        parts = layers.setdefault(layer, _Parts(match["layer"]))
        part = _SIDES.get(match["part"], match["part"])
        part = "up_bias" if part == "up" and match["leaf"] == "bias" else part
        if part in parts.held:
            raise WeightsError(
                f"{name} changes {layer} twice ({key}); it holds several LoRAs, save each in a file of its own"
            )
        parts.held[part] = tensor
        parts.keys.append(key)
    return layers, odd


def _unflattened(key: str, flat: Mapping[str, str]) -> str:
    """A key in kohya's form with the network's name of its layer; other keys are returned unchanged."""
    kohya = _KOHYA.match(key)
    if kohya is None:
        return key
    names = kohya["layer"].split("_")
    for skipped in range(3):  # such as lora_unet_, lora_transformer_, lycoris_
        layer = "_".join(names[skipped:])
        if layer in flat:
            return f"{flat[layer]}{kohya['rest']}"
    return f"{kohya['layer']}{kohya['rest']}"


def _check_values(key: str, tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point() and not key.endswith("alpha"):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise WeightsError(f"{name} holds {key} as {kind}, an unknown packing; use a floating-point file")
    if not bool(tensor.float().isfinite().all()):
        raise WeightsError(f"{name} holds values in {key} that are not numbers; its training failed, use another file")


_WRAPPED = re.compile(rf"^(?:(?:{'|'.join(sorted(WRAPPERS, key=len, reverse=True))}|transformer_2)\.)+")


def _layer_of(layer: str, layout: Layout, rename: Callable[[str], str]) -> str:
    bare = _WRAPPED.sub("", INNER.sub("", layer))
    names = bare.split(".")
    for tried in (bare, layer, *(".".join(names[skipped:]) for skipped in range(1, min(3, len(names))))):
        if (named := rename(f"{tried}.weight").removesuffix(".weight")) and (
            f"{named}.weight" in layout or named in layout
        ):
            return named
        if (named := rename(tried)) in layout:  # a parameter outside any layer
            return named
    return rename(f"{bare}.weight").removesuffix(".weight")


def _flat_names(layout: Layout, naming: Naming) -> dict[str, str]:
    """The network's layers by their names, in its own code and in the original one, with `_` for `.`."""
    layers = {key.rpartition(".")[0] for key in layout}
    return {named(layer).replace(".", "_"): layer for named in (naming.original, str) for layer in layers}


def _changes(
    layer: str, parts: "_Parts", layout: Layout, alpha: "StatedAlpha", names: tuple[str, str]
) -> dict[str, Change]:
    """The changes of one layer's parameters; empty if the network lacks the layer."""
    held = parts.held
    own, expert = layer.removeprefix(SECOND), SECOND if layer.startswith(SECOND) else ""
    weight, bias = f"{own}.weight", f"{own}.bias"
    found: dict[str, Change] = {}
    up, down = held.get("up"), held.get("down")
    if (up is None) != (down is None):
        missing = "up (or lora_B)" if up is None else "down (or lora_A)"
        raise WeightsError(f"{names[0]} is incomplete: {layer} has no lora_{missing}; fetch it again")
    if up is not None and down is not None and weight in layout:
        rank = down.shape[0]
        if up.shape[1] != rank or not rank:
            raise WeightsError(
                f"{names[0]} is damaged: the ranks of {layer} are {rank} (down) and {up.shape[1]} (up); fetch it again"
            )
        scale = alpha.scale(parts.name, rank, float(held["alpha"]) if "alpha" in held else None, names[0])
        _check_shape(layer, (up.shape[0], *down.shape[1:]), layout[weight], names)
        found[expert + weight] = Change(up, down, scale, magnitude=held.get("magnitude"))
    for part, key in (("diff", weight), ("diff_b", bias), ("up_bias", bias), ("diff_m", _modulation(own, layout))):
        if part not in held:
            continue
        changed = key if key in layout else own
        if changed in layout:
            _check_shape(changed, held[part].shape, layout[changed], names)
            found[expert + changed] = Change(full=held[part])
    return found


def _modulation(layer: str, layout: Layout) -> str:
    """The parameter that `diff_m` changes: the modulation of a block or of the head."""
    key = "scale_shift_table" if layer == "head" else f"{layer}.scale_shift_table"
    return key if key in layout else ""


def _check_shape(layer: str, found: Sequence[int], wanted: Sequence[int], names: tuple[str, str]) -> None:
    if _size(found) != _size(wanted) or found[0] != wanted[0]:
        raise WeightsError(
            f"{names[0]} is a LoRA of another model: {layer} is changed as {tuple(found)}, and {names[1]} has"
            f" {tuple(wanted)}; use a LoRA of this model"
        )


def _size(shape: Iterable[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _norms(weight: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """The norms of a weight's rows, or of its columns where DoRA has one magnitude for each of them, and the magnitudes
    in their shape."""
    flat, count = weight.flatten(1), magnitude.numel()
    by_column = count == flat.shape[1] and (count != flat.shape[0] or magnitude.shape[:1] == (1,))
    shape = (1, *weight.shape[1:]) if by_column else (weight.shape[0], *[1] * (weight.dim() - 1))
    return flat.norm(dim=0 if by_column else 1).reshape(shape), magnitude.reshape(shape)


@dataclass(frozen=True)
class StatedAlpha:
    """What is known of alpha outside of a LoRA's tensors.

    Args:
        alpha: of all layers; None for their rank.
        by_layer: of single layers, by their names or the ends of them.
        by_root: whether the rank's square root divides alpha (rsLoRA, Kalajdzievski, arXiv 2312.03732).
    """

    alpha: float | None = None
    by_layer: Mapping[str, float] = field(default_factory=dict)
    by_root: bool = False

    def scale(self, layer: str, rank: int, own: float | None, name: str) -> float:
        """The factor of a layer's product; `own` is the alpha next to its tensors."""
        named = next((value for end, value in self.by_layer.items() if f".{layer}".endswith(f".{end}")), self.alpha)
        alpha = named if own is None else own
        if alpha is None:
            return rank**0.5 if self.by_root else 1.0
        if not isfinite(alpha) or alpha == 0:
            raise WeightsError(
                f"{name} has alpha {alpha:g} for {layer}; use a file with its true alpha, or --lora-alpha"
            )
        return alpha / (rank**0.5 if self.by_root else rank)


def stated_alpha(metadata: Mapping[str, str], config: str | None) -> StatedAlpha:
    """Alpha as peft states it in its configuration, or diffusers or kohya in a file's metadata."""
    stated = _json(config) or _json(metadata.get("lora_adapter_metadata"))
    if isinstance(stated, dict):
        own = {key.removeprefix("transformer."): value for key, value in stated.items()}
        by_layer = own.get("alpha_pattern") or {}
        return StatedAlpha(
            _positive(own.get("lora_alpha")),
            {end: float(value) for end, value in by_layer.items() if _positive(value)},
            by_root=bool(own.get("use_rslora", False)),
        )
    return StatedAlpha(_positive(_json(metadata.get("ss_network_alpha"))))


def _positive(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _json(text: str | None) -> Any:
    """The value of a JSON text; None if there is none."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None
