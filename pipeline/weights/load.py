"""Load one of longtake's own models by name, path or URL; save one."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import resources
from typing import Any, TypeVar

import fsspec
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from longtake.pipeline.errors import LongtakeError, WeightsError
from longtake.pipeline.models.embedded import SECOND_WORLD, SOUNDING_SHAPES, TINY, EmbeddedModel, EmbeddedModelConfig
from longtake.pipeline.models.upscaler import TINY_UPSCALER, UPSCALER, Upscaler, UpscalerConfig
from longtake.pipeline.weights.lora import TrainedLora

Config = TypeVar("Config")
Model = TypeVar("Model", EmbeddedModel, Upscaler)

EMBEDDED = {config.name: config for config in (SOUNDING_SHAPES, TINY, SECOND_WORLD)}
EMBEDDED_UPSCALERS = {config.name: config for config in (UPSCALER, TINY_UPSCALER)}
_CONFIG, _UPSCALER_CONFIG = TypeAdapter(EmbeddedModelConfig), TypeAdapter(UpscalerConfig)
_KEY, _UPSCALER_KEY = "longtake", "longtake_upscaler"
"""Keys of the configuration in a file's header."""

_LARGEST = {"sample_rate": 2**20, "hop": 2**12}
_OTHERWISE = 2**16
"""The largest numbers in a configuration, by key; a buffer has `hop` squared elements, and no tensor in the file."""
_DEPTHS = {"num_layers", "text_layers", "blocks", "attentions"}
"""Keys that count layers; each layer has at least one tensor."""


def load_model(name: str) -> EmbeddedModel:
    """Load the model `name`, ready to render.

    Args:
        name: an embedded model ("sounding-shapes"), or the path or URL of a `.safetensors` file that `save_model`
            wrote. An embedded model without shipped weights gets random ones; its `config.trained` is False.

    Raises:
        WeightsError: the file does not exist, is damaged, or has another architecture.
    """
    if name in EMBEDDED:
        shipped = _shipped(name)
        return _build_shipped(shipped, EMBEDDED[name]) if shipped else EmbeddedModel.untrained(EMBEDDED[name])
    return _build(_read(name, f"model is {name!r}; use {' or '.join(EMBEDDED)}"), name)


def load_upscaler(name: str) -> Upscaler:
    """Load the upscaler `name`: an embedded one ("upscaler") or a file; errors as in `load_model`."""
    if name in EMBEDDED_UPSCALERS:
        shipped = _shipped(name)
        return _build_shipped_upscaler(shipped, name) if shipped else Upscaler.untrained(EMBEDDED_UPSCALERS[name])
    return _build_upscaler(_read(name, f"upscaler is {name!r}; use {' or '.join(EMBEDDED_UPSCALERS)}"), name)


def save_model(model: EmbeddedModel | Upscaler | TrainedLora, url: str) -> None:
    """Write weights and configuration to one safetensors file at `url`."""
    state = model.tensors if isinstance(model, TrainedLora) else model.state_dict()
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    if isinstance(model, TrainedLora):
        metadata = dict(model.metadata)
    elif isinstance(model, Upscaler):
        metadata = {_UPSCALER_KEY: _UPSCALER_CONFIG.dump_json(model.config).decode()}
    else:
        metadata = {_KEY: _CONFIG.dump_json(model.config).decode()}
    with fsspec.open(url, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata))


def _shipped(name: str) -> bytes | None:
    file = resources.files("longtake.pipeline.weights").joinpath(f"{name}.safetensors")
    return file.read_bytes() if file.is_file() else None


def _read(name: str, wanted: str) -> bytes:
    if not name.endswith(".safetensors"):
        raise WeightsError(f"{wanted}, or the path or URL of a .safetensors file")
    try:
        with fsspec.open(name, "rb") as file:
            data: bytes = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise WeightsError(f"the weights {name} cannot be read: {error}") from error
    return data


def _build_shipped(data: bytes, known: EmbeddedModelConfig) -> EmbeddedModel:
    """A model that is shipped; older files do not hold all of its configuration.

    `_check_fit` is for files of others: it would import torch's compiler, which takes seconds in every process.
    """
    tensors, config = _parse(data, known.name, _KEY, _CONFIG)
    model = _fill(EmbeddedModel.untrained(config), tensors, known.name)
    model.config = replace(model.config, trained_sizes=known.trained_sizes)
    return model


def _build_shipped_upscaler(data: bytes, name: str) -> Upscaler:
    tensors, config = _parse(data, name, _UPSCALER_KEY, _UPSCALER_CONFIG)
    return _fill(Upscaler.untrained(config), tensors, name)


def _build(data: bytes, name: str) -> EmbeddedModel:
    tensors, config = _parse(data, name, _KEY, _CONFIG)
    _check_fit(EmbeddedModel, config, tensors, name)
    return _fill(EmbeddedModel.untrained(config), tensors, name)


def _build_upscaler(data: bytes, name: str) -> Upscaler:
    tensors, config = _parse(data, name, _UPSCALER_KEY, _UPSCALER_CONFIG)
    _check_fit(Upscaler, config, tensors, name)
    return _fill(Upscaler.untrained(config), tensors, name)


def _check_fit(
    kind: type[EmbeddedModel] | type[Upscaler],
    config: EmbeddedModelConfig | UpscalerConfig,
    tensors: dict[str, Tensor],
    name: str,
) -> None:
    """Compare the tensors with the sizes in the header before memory is allocated: a header may ask for any size."""
    for key, size in _numbers(asdict(config)):
        most = len(tensors) if key in _DEPTHS else _LARGEST.get(key, _OTHERWISE)
        if size > most:
            raise WeightsError(
                f"{name} does not fit the architecture in its header: {key} is {size}, at most {most} fit"
            )
    try:
        with torch.device("meta"):
            shell = kind(config)  # type: ignore[arg-type]  # the caller pairs them
    except (ArithmeticError, LongtakeError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{name} has an impossible architecture in its header: {error}") from error
    shapes = {key: tuple(tensor.shape) for key, tensor in shell.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    differ = sorted(key for key in shapes.keys() | found.keys() if shapes.get(key) != found.get(key))
    if differ:
        first = f"{differ[0]} is {found.get(differ[0], 'missing')}, not {shapes.get(differ[0], 'known')}"
        raise WeightsError(
            f"{name} does not fit the architecture in its header: {len(differ)} tensors differ ({first})"
        )


def _numbers(value: object, key: str = "") -> Iterator[tuple[str, int]]:
    """All integers in a configuration, each with its key."""
    if isinstance(value, dict):
        for below, item in value.items():
            yield from _numbers(item, below)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _numbers(item, key)
    elif isinstance(value, int):
        yield key, value


def _parse(data: bytes, name: str, key: str, adapter: TypeAdapter[Config]) -> tuple[dict[str, Tensor], Config]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        return tensors, adapter.validate_json(_metadata(data)[key])
    except (SafetensorError, ValidationError, KeyError) as error:
        reason = str(error).splitlines()[0]
        what = "longtake upscaler" if key == _UPSCALER_KEY else "longtake model"
        raise WeightsError(
            f"{name} is not a {what} ({reason}), or is incomplete; save it again with `save_model`"
        ) from error


def _fill(model: Model, tensors: dict[str, Tensor], name: str) -> Model:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{name} does not fit the architecture in its header: {error}") from error
    return model.eval()


def _metadata(data: bytes) -> dict[str, Any]:
    """The `__metadata__` of a safetensors file: 8 bytes of length, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, Any] = header.get("__metadata__", {})
    return metadata
