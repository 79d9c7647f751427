"""A model in diffusers' format: a folder with `model_index.json`, and a folder for each part that it names."""

import json
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.licence import CARD
from longtake.pipeline.weights.node_cache import fingerprint_of
from longtake.pipeline.weights.options import LoadOptions

INDEX = "model_index.json"
MARK = "longtake.json"
"""Beside the index: what we know of weights that diffusers has no word for, such as that they are causal."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""What a part consists of: tensors, settings and tokenizers; nothing that runs code."""

_VARIANT = re.compile(r"\.(fp16|bf16|fp32|fp8\w*|non_ema)[.-]")
"""A second copy of the same weights, in another precision; the only one of some parts."""


def read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json` of a folder. Raises `WeightsError` where it is missing or damaged."""
    file = folder / INDEX
    try:
        return parse_index(file.read_bytes(), str(file))
    except OSError as error:
        raise WeightsError(
            f"{folder} is no model in diffusers' format: {error}; a folder holds {INDEX} beside its parts"
        ) from error


def parse_index(data: bytes, source: str) -> dict[str, Any]:
    """The index in `data`. Raises `WeightsError` where it is no such thing."""
    try:
        index = json.loads(data)
        if not isinstance(index["_class_name"], str):
            raise TypeError("_class_name is no text")
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{source} is no model index of diffusers ({error!r}); fetch the model again") from error
    return dict(index)


def parts_of(index: dict[str, Any]) -> tuple[str, ...]:
    """The parts that a model has, such as "transformer" or "vae"; each a folder of its own."""
    pairs = {key: value for key, value in index.items() if isinstance(value, list) and len(value) == 2}
    return tuple(key for key, value in pairs.items() if all(isinstance(word, str) for word in value))


def needed(names: Iterable[str], index: dict[str, Any], source: str) -> list[str]:
    """Of all files of a model, those that its parts are read from. Raises `WeightsError` for a part of pickles only."""
    found = sorted(names)
    wanted = [name for name in found if name in (INDEX, MARK, CARD)]
    for part in parts_of(index):
        files = [name for name in found if name.startswith(f"{part}/")]
        pickles = [name for name in files if name.endswith(PICKLES)]
        if pickles and not any(name.endswith(".safetensors") for name in files):
            raise refused(f"{source.rstrip('/')}/{pickles[0]}")
        read = [name for name in files if name.endswith(SUFFIXES)]
        plain = [name for name in read if not _VARIANT.search(name)]
        wanted += plain if any(name.endswith(".safetensors") for name in plain) else read
    return wanted


def refused(pickle: str) -> WeightsError:
    """The refusal of a pickle, with the cure."""
    return WeightsError(
        f"{pickle} is a pickle, which may run code when it is read; `longtake convert {pickle} OUT` makes safetensors"
        " of it"
    )


def unreadable(checkpoint: Path, error: Exception) -> WeightsError:
    """What to say of a checkpoint that cannot be read as tensors and plain values."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
    if isinstance(error, pickle.UnpicklingError):  # whose own words tell how to run what it holds
        reason = "what else it holds may run code"
    return WeightsError(f"{checkpoint} does not hold tensors only ({reason}); fetch it again from the source")


def model_name(folder: Path) -> str:
    """What a film calls the model in `folder`: the repository's name in Hugging Face's cache, else the folder's own."""
    folder = folder.absolute()
    match = re.fullmatch(r"models--.+--(.+)", folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    return match[1] if match else folder.name


def files_of(folder: Path) -> list[str]:
    """Names of the files that the model in a folder is read from; a part may be a link to another folder."""
    index = read_index(folder)
    found = [*folder.glob("*"), *(file for part in parts_of(index) for file in (folder / part).rglob("*"))]
    return needed([file.relative_to(folder).as_posix() for file in found if file.is_file()], index, str(folder))


def folder_fingerprint(folder: Path, load: LoadOptions) -> str:
    """What tells the weights in a folder from any others; reads the files once, and their sizes and times later."""
    return fingerprint_of([folder / name for name in files_of(folder) if name != CARD], folder, load.cache_folder)
