"""Find and load a model by name, path or URL; save one."""

import json
from importlib import resources
from typing import Any

import fsspec
import safetensors.torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from pipeline.errors import WeightsError
from pipeline.models.film_model import SOUNDING_SHAPES, TINY, FilmModel, FilmModelConfig

EMBEDDED = {config.name: config for config in (SOUNDING_SHAPES, TINY)}
_CONFIG = TypeAdapter(FilmModelConfig)


def load_model(name: str) -> FilmModel:
    """The model called `name`, ready to render.

    Args:
        name: an embedded model ("sounding-shapes"), or the path or URL of a `.safetensors` file that `save_model`
            wrote. An embedded model without shipped weights comes with random ones, and says so in `config.trained`.

    Raises:
        WeightsError: nothing is there, it is damaged, or it is of another architecture.
    """
    if name in EMBEDDED:
        shipped = resources.files("pipeline.weights").joinpath(f"{name}.safetensors")
        return _build(shipped.read_bytes(), name) if shipped.is_file() else FilmModel.untrained(EMBEDDED[name])
    if not name.endswith(".safetensors"):
        raise WeightsError(f"model is {name!r}; use {' or '.join(EMBEDDED)}, or the path or URL of a .safetensors file")
    try:
        with fsspec.open(name, "rb") as file:
            data = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise WeightsError(f"the weights {name} cannot be read: {error}") from error
    return _build(data, name)


def save_model(model: FilmModel, url: str) -> None:
    """Write weights and configuration to one safetensors file at `url`."""
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    metadata = {"longtake": _CONFIG.dump_json(model.config).decode()}
    with fsspec.open(url, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata))


def _build(data: bytes, name: str) -> FilmModel:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        config = _CONFIG.validate_json(_metadata(data)["longtake"])
    except (SafetensorError, ValidationError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{name} is no longtake model ({reason}); was it written by `save_model`, whole?") from error
    model = FilmModel.untrained(config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{name} does not fit the architecture its header names: {error}") from error
    return model.eval()


def _metadata(data: bytes) -> dict[str, Any]:
    """The `__metadata__` of a safetensors file: 8 bytes of length, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, Any] = header.get("__metadata__", {})
    return metadata
