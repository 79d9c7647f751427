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
from pathlib import Path

import torch
from torch import Tensor

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.checkpoint import INNER, WRAPPERS, read_checkpoint, tensors_of

NAMED = 4
"""Number of keys that a message lists."""

_TEXT = re.compile(r"^(?:lora_te\d?_|text_encoders?\.|text_encoder_\d\.|te\d?\.|text_embedding_projection\.)")
_UNSUPPORTED = {"lokr": "LoKr", "hada": "LoHa", "oft_": "OFT", "boft": "BOFT", "glora": "GLoRA", "loha": "LoHa"}
_KOHYA = re.compile(r"^lora_(?:unet|transformer|dit)_(?P<layer>[^.]+)(?P<rest>\..+)$")
_PART = re.compile(
    r"^(?P<layer>.+?)\.(?P<part>lora_A|lora_B|lora_down|lora_up|lora_magnitude_vector|alpha|dora_scale|diff_b|diff_m|diff"
    r"|lora\.down|lora\.up)(?:\.(?!weight$|bias$)\w+)?(?:\.(?P<leaf>weight|bias))?$"
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
    held: dict[str, Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)


def read_lora(
    file: Path, layout: Layout, naming: Naming, alpha: float | None = None, *, model: str = "this model"
) -> Lora:
    """The changes that the LoRA in a file makes to a network.

    Args:
        layout: shapes of the network's parameters.
        naming: of its layers.
        alpha: strength times rank; by default that of the file, or the rank.
        model: its name, for errors.

    Raises:
        WeightsError: the file is no LoRA, of an unsupported kind, or of another model.
    """
    checkpoint = read_checkpoint(file)
    contents = checkpoint.contents
    tensors = tensors_of(contents.get("generator_lora") or contents)
    if not tensors:
        raise WeightsError(f"--lora {file} holds no named tensors; use another file")
    alpha = alpha if alpha is not None else _stated_alpha(checkpoint.metadata)
    return lora_of(tensors, layout, naming, alpha, name=file.name, model=model)


def lora_of(
    tensors: Mapping[str, Tensor],
    layout: Layout,
    naming: Naming = Naming(),
    alpha: float | None = None,
    *,
    name: str = "the LoRA",
    model: str = "this model",
) -> Lora:
    """The changes that a LoRA's tensors make to a network; see `read_lora`."""
    text = tuple(key for key in tensors if _TEXT.match(key))
    layers, odd = _by_layer({key: x for key, x in tensors.items() if key not in text}, layout, naming, name)
    changes: dict[str, Change] = {}
    unused: list[str] = list(odd)
    for layer, parts in layers.items():
        found = _changes(layer, parts.held, layout, alpha, (name, model))
        if not found:
            unused += parts.keys
        changes |= found
    if not changes:
        if not layers:
            raise WeightsError(f"{name} holds {some(odd) or 'nothing'}, which is no LoRA; use another file")
        raise WeightsError(
            f"{name} is a LoRA of another model: {model} has no such layer as {some(unused)}; use one of it"
        )
    return Lora(name, changes, text, tuple(sorted(unused)))


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
        kohya = _KOHYA.match(key)
        match = _PART.match(f"{flat.get(kohya['layer'], kohya['layer'])}{kohya['rest']}" if kohya else key)
        if match is None:
            odd.append(key)
            continue
        expert = SECOND if SECOND in key else ""
        layer = expert + _layer_of(match["layer"], layout, naming.own)
        parts = layers.setdefault(layer, _Parts())
        part = _SIDES.get(match["part"], match["part"])
        parts.held["up_bias" if part == "up" and match["leaf"] == "bias" else part] = tensor
        parts.keys.append(key)
    return layers, odd


_WRAPPED = re.compile(rf"^(?:(?:{'|'.join(sorted(WRAPPERS, key=len, reverse=True))}|transformer_2)\.)+")


def _layer_of(layer: str, layout: Layout, rename: Callable[[str], str]) -> str:
    bare = _WRAPPED.sub("", INNER.sub("", layer))
    for tried in (bare, layer):
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
    layer: str, held: Mapping[str, Tensor], layout: Layout, alpha: float | None, names: tuple[str, str]
) -> dict[str, Change]:
    """The changes of one layer's parameters; empty if the network lacks the layer."""
    own, expert = layer.removeprefix(SECOND), SECOND if layer.startswith(SECOND) else ""
    weight, bias = f"{own}.weight", f"{own}.bias"
    found: dict[str, Change] = {}
    up, down = held.get("up"), held.get("down")
    if (up is None) != (down is None):
        missing = "up (or lora_B)" if up is None else "down (or lora_A)"
        raise WeightsError(f"{names[0]} is incomplete: {layer} has no lora_{missing}; fetch it again")
    if up is not None and down is not None and weight in layout:
        rank = down.shape[0]
        stated = float(held["alpha"]) if "alpha" in held else alpha
        scale = 1.0 if stated is None else stated / rank
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


def _stated_alpha(metadata: Mapping[str, str]) -> float | None:
    """Alpha as peft or kohya states it in a file's metadata."""
    for key, inner in (("lora_adapter_metadata", ("transformer.lora_alpha", "lora_alpha")), ("ss_network_alpha", None)):
        text = metadata.get(key)
        if text is None:
            continue
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if inner is not None and isinstance(value, dict):
            value = next((value[name] for name in inner if name in value), None)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None
