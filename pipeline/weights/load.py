"""Load one of longtake's own models by name, path or URL; save one."""

import json
from importlib import resources
from typing import Any, TypeVar

import fsspec
import safetensors.torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.models.embedded import SOUNDING_SHAPES, TINY, EmbeddedModel, EmbeddedModelConfig
from longtake.pipeline.models.upscaler import TINY_UPSCALER, UPSCALER, Upscaler, UpscalerConfig

Config = TypeVar("Config")
Model = TypeVar("Model", EmbeddedModel, Upscaler)

EMBEDDED = {config.name: config for config in (SOUNDING_SHAPES, TINY)}
EMBEDDED_UPSCALERS = {config.name: config for config in (UPSCALER, TINY_UPSCALER)}
_CONFIG, _UPSCALER_CONFIG = TypeAdapter(EmbeddedModelConfig), TypeAdapter(UpscalerConfig)
_KEY, _UPSCALER_KEY = "longtake", "longtake_upscaler"
"""Keys of the configuration in a file's header."""


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
        return _build(shipped, name) if shipped else EmbeddedModel.untrained(EMBEDDED[name])
    return _build(_read(name, f"model is {name!r}; use {' or '.join(EMBEDDED)}"), name)


def load_upscaler(name: str) -> Upscaler:
    """Load the upscaler `name`: an embedded one ("upscaler") or a file; errors as in `load_model`."""
    if name in EMBEDDED_UPSCALERS:
        shipped = _shipped(name)
        return _build_upscaler(shipped, name) if shipped else Upscaler.untrained(EMBEDDED_UPSCALERS[name])
    return _build_upscaler(_read(name, f"upscaler is {name!r}; use {' or '.join(EMBEDDED_UPSCALERS)}"), name)


def save_model(model: EmbeddedModel | Upscaler, url: str) -> None:
    """Write weights and configuration to one safetensors file at `url`."""
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    if isinstance(model, Upscaler):
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


def _build(data: bytes, name: str) -> EmbeddedModel:
    tensors, config = _parse(data, name, _KEY, _CONFIG)
    return _fill(EmbeddedModel.untrained(config), tensors, name)


def _build_upscaler(data: bytes, name: str) -> Upscaler:
    tensors, config = _parse(data, name, _UPSCALER_KEY, _UPSCALER_CONFIG)
    return _fill(Upscaler.untrained(config), tensors, name)


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
