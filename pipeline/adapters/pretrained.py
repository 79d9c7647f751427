"""What transformers reads of a model's folder: tokenizer, encoders, image processor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, CLIPImageProcessorPil

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.options import LoadOptions


def read_tokenizer(part: Path) -> Any:
    """The tokenizer in a part of a model. Raises `WeightsError` where transformers cannot read it."""
    try:
        return AutoTokenizer.from_pretrained(part, local_files_only=True)
    except Exception as error:  # every kind of tokenizer fails in its own way
        raise WeightsError(f"{part} holds no tokenizer that can be read ({error}); fetch the model again") from error


def read_image_processor(part: Path) -> Any:
    """CLIP's image processor in a part of a model. Raises `WeightsError` where transformers cannot read it."""
    try:
        return CLIPImageProcessorPil.from_pretrained(part, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{part} holds no image processor that can be read ({error}); fetch the model again"
        ) from error


def read_encoder(kind: str, part: Path, load: LoadOptions) -> Any:
    """An encoder of transformers' class `kind`, ready to run, whatever version of transformers named its tensors.

    Raises:
        WeightsError: transformers cannot read it, or would make up weights that the part lacks.
    """
    disable_progress_bar: Callable[[], None] = transformers.logging.disable_progress_bar
    disable_progress_bar()
    try:
        encoder, told = getattr(transformers, kind).from_pretrained(
            part, local_files_only=True, use_safetensors=True, dtype=load.dtype or "auto", output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{part} holds no {kind} that can be read ({error}); fetch the model again") from error
    if missing := sorted(told["missing_keys"]):
        raise WeightsError(
            f"the tensors of {part} do not fit {kind}: {len(missing)} missing ({missing[0]}, ...); its configuration"
            " and its weights must be of one model"
        )
    return encoder.eval().to(load.device)
