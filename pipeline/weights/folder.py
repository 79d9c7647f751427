"""A model in diffusers' format: a folder with `model_index.json` and a subfolder for each part that it names."""

import json
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.names import is_plain
from longtake.pipeline.weights.licence import CARD
from longtake.pipeline.weights.node_cache import fingerprint_of
from longtake.pipeline.weights.options import LoadOptions

INDEX = "model_index.json"
MARK = "longtake.json"
"""A file next to the index, with facts about the weights that diffusers does not store, such as causal training."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""File types of a part: tensors, settings and tokenizers; none of them executes code."""

VARIANT = re.compile(r"\.(fp16|bf16|fp32|fp8\w*|non_ema)[.-]")
"""A copy of the weights in another precision; some parts have no other."""


def read_index(folder: Path) -> dict[str, Any]:
    """Read `model_index.json` of a folder. Raises `WeightsError` if it is missing or damaged."""
    file = folder / INDEX
    try:
        return parse_index(file.read_bytes(), str(file))
    except OSError as error:
        raise WeightsError(
            f"{folder} is not a model in diffusers' format: {error}; such a folder holds {INDEX} and its parts"
        ) from error


def parse_index(data: bytes, source: str) -> dict[str, Any]:
    """Parse an index. Raises `WeightsError` if it is invalid."""
    try:
        index = json.loads(data)
        if not isinstance(index["_class_name"], str):
            raise TypeError("_class_name is not a string")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{source} is not a model index of diffusers ({error!r}); fetch the model again") from error
    for part in parts_of(index):
        if not is_plain(part):
            raise WeightsError(f"{source} names the part {part!r}, which is no folder next to it; use another source")
    return dict(index)


def parts_of(index: dict[str, Any]) -> tuple[str, ...]:
    """The parts of a model, such as "transformer" or "vae"; each is a subfolder."""
    pairs = {key: value for key, value in index.items() if isinstance(value, list) and len(value) == 2}
    return tuple(key for key, value in pairs.items() if all(isinstance(word, str) for word in value))


def needed(names: Iterable[str], index: dict[str, Any], source: str) -> list[str]:
    """The files among `names` that are needed to load the model.

    Raises:
        WeightsError: a part has only pickles.
    """
    found = sorted(names)
    wanted = [name for name in found if name in (INDEX, MARK, CARD)]
    for part in parts_of(index):
        files = [name for name in found if name.startswith(f"{part}/")]
        if not files:
            raise WeightsError(f"{source.rstrip('/')} has no {part}, which its {INDEX} names; use a complete model")
        pickles = [name for name in files if name.endswith(PICKLES)]
        if pickles and not any(name.endswith(".safetensors") for name in files):
            raise refused(f"{source.rstrip('/')}/{pickles[0]}")
        read = [name for name in files if name.endswith(SUFFIXES)]
        plain = [name for name in read if not VARIANT.search(name)]
        wanted += plain if any(name.endswith(".safetensors") for name in plain) else _one_variant(read, part, source)
    return wanted


def _one_variant(names: list[str], part: str, source: str) -> list[str]:
    """The files of a part whose weights are stored as variants only."""
    variants = {match[1] for name in names if name.endswith(".safetensors") and (match := VARIANT.search(name))}
    if len(variants) > 1:
        raise WeightsError(
            f"{source.rstrip('/')}/{part} holds the variants {', '.join(sorted(variants))} and no plain weights;"
            f" keep one"
            " of them"
        )
    return names


def refused(pickle: str) -> WeightsError:
    """The error for a pickle, with the fix."""
    return WeightsError(
        f"{pickle} is a pickle, which may run code when it is read; `longtake convert {pickle} OUT` converts it to"
        " safetensors"
    )


def unreadable(checkpoint: Path, error: Exception) -> WeightsError:
    """The error for a checkpoint that cannot be read as tensors and plain values."""
    if not isinstance(error, pickle.UnpicklingError):
        reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
        return WeightsError(f"{checkpoint} is damaged or truncated ({reason}); fetch it again from the source")
    named = re.search(r"GLOBAL ([\w.]+)", str(error))  # the rest of the message suggests running the code
    harmless = named is not None and named[1].partition(".")[0] in _HARMLESS
    reason = f"also {named[1]}, which is not read" if named and harmless else "its other contents may run code"
    return WeightsError(f"{checkpoint} holds more than tensors ({reason}); fetch it again from the source")


_HARMLESS = (
    "argparse",
    "collections",
    "numpy",
    "omegaconf",
    "pathlib",
    "pytorch_lightning",
    "torch",
    "torchao",
    "typing",
)
"""Packages whose values training scripts store next to the weights."""


def model_name(folder: Path) -> str:
    """The model's name in films: the repository's name if `folder` is in Hugging Face's cache, else the folder's."""
    folder = folder.absolute()
    match = re.fullmatch(r"models--.+--(.+)", folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    return match[1] if match else folder.name


def files_of(folder: Path) -> list[str]:
    """Names of the files needed to load the model in a folder; a part may be a link to another folder."""
    index = read_index(folder)
    found = [*folder.glob("*"), *(file for part in parts_of(index) for file in (folder / part).rglob("*"))]
    return needed([file.relative_to(folder).as_posix() for file in found if file.is_file()], index, str(folder))


def folder_fingerprint(folder: Path, load: LoadOptions) -> str:
    """A hash of the weights in a folder; checksums are cached by path, size and time stamp."""
    return fingerprint_of([folder / name for name in files_of(folder) if name != CARD], folder, load.cache_folder)
