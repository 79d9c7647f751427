"""Parts of a model folder that transformers loads: tokenizer, encoders, image processor."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, CLIPImageProcessorPil

from longtake.pipeline.adapters.presets import preset_of
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.tensors import stored_dtype


def as_published(load: LoadOptions, name: str, denoiser: Path) -> LoadOptions:
    """`load`, with the precision in which the published model `name` runs if its denoiser is stored in float32 and no
    precision was asked for."""
    if load.dtype is not None or preset_of(name) is None or stored_dtype(denoiser) != torch.float32:
        return load
    return replace(load, dtype=torch.bfloat16)


def read_tokenizer(part: Path) -> Any:
    """The tokenizer in a part of a model. Raises `WeightsError` if transformers cannot read it."""
    try:
        return AutoTokenizer.from_pretrained(part, local_files_only=True)
    except Exception as error:  # every kind of tokenizer raises its own errors
        for package in ("sentencepiece", "tiktoken"):
            if package in str(error) and find_spec(package) is None:
                raise WeightsError(
                    f"{part} holds a tokenizer that needs the package {package}, which is not installed: pip install"
                    f" {package}"
                ) from error
        raise WeightsError(f"{part} holds no tokenizer that can be read ({error}); fetch the model again") from error


def read_image_processor(part: Path) -> Any:
    """CLIP's image processor in a part of a model. Raises `WeightsError` if transformers cannot read it."""
    try:
        return CLIPImageProcessorPil.from_pretrained(part, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{part} holds no image processor that can be read ({error}); fetch the model again"
        ) from error


def read_encoder(kind: str, part: Path, load: LoadOptions) -> Any:
    """An encoder of transformers' class `kind`, ready to run; key names of older transformers versions are accepted.

    Raises:
        WeightsError: transformers cannot read it, or weights are missing, which transformers would fill at random.
    """
    disable_progress_bar: Callable[[], None] = transformers.logging.disable_progress_bar
    disable_progress_bar()
    try:
        encoder, loading_info = getattr(transformers, kind).from_pretrained(
            part, local_files_only=True, use_safetensors=True, dtype=load.dtype or "auto", output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{part} holds no {kind} that can be read ({error}); fetch the model again") from error
    if missing := sorted(loading_info["missing_keys"]):
        raise WeightsError(
            f"the tensors of {part} do not fit {kind}: {len(missing)} missing ({missing[0]}, ...); configuration"
            " and weights must belong to the same model"
        )
    return encoder.eval().to(load.device)
