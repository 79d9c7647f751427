"""JSON files of a model folder: the configurations of its parts, and longtake's mark of causal weights."""

import json
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.sampling_spec import SamplingSpec
from longtake.pipeline.weights.folder import MARK
from longtake.pipeline.yaml_spec import whole


class CausalMark(BaseModel):
    """`longtake.json`, next to model_index.json: the weights were trained to attend to a cache of clean chunks.

    Args:
        chunk_latents: video latents per chunk.
        window, sink: of the KV plan, in chunks.
        sampling: defaults for the storyboard's sampling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rollout: Literal["causal"]
    chunk_latents: Annotated[int, whole(1, 1000)]
    window: Annotated[int, whole(0, 1000)]
    sink: Annotated[int, whole(0, 1000)] = 0
    sampling: SamplingSpec = SamplingSpec()

    @property
    def defaults(self) -> dict[str, Any]:
        """The keys that `sampling` sets, with their values."""
        return {key: getattr(self.sampling, key) for key in self.sampling.model_fields_set}


def read_mark(path: Path) -> CausalMark | None:
    """The mark of a folder; None without one. Raises `WeightsError` for an invalid mark."""
    file = path / MARK
    if not file.is_file():
        return None
    try:
        return CausalMark.model_validate(read_settings(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WeightsError(
            f"{file}: {where}: {first['msg'].removeprefix('Value error, ')}; write it with `longtake convert`"
        ) from error


def read_configuration(file: Path, network: type) -> dict[str, Any]:
    """The configuration of a network; missing keys get the defaults of its class.

    Raises:
        WeightsError: the file is missing or damaged, or has text in place of a number.
    """
    usual = {
        name: each.default for name, each in signature(network).parameters.items() if each.default is not each.empty
    }
    found = {**usual, **read_settings(file)}
    for key, value in usual.items():
        if isinstance(value, int | float) and isinstance(found[key], str):
            raise WeightsError(
                f"{file}: {key} is {found[key]!r}; use a number such as {value}, or fetch the model again"
            )
    return found


def read_settings(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file. Raises `WeightsError` if it is missing or damaged."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read as JSON ({error}); fetch the model again") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{file} holds {type(found).__name__}, not an object; fetch the model again")
    return found
