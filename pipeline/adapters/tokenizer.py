"""The tokenizer of a model's folder."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from pipeline.errors import WeightsError


def read_tokenizer(part: Path) -> Any:
    """The tokenizer in a part of a model. Raises `WeightsError` where transformers cannot read it."""
    try:
        return AutoTokenizer.from_pretrained(part, local_files_only=True)
    except Exception as error:  # every kind of tokenizer fails in its own way
        raise WeightsError(f"{part} holds no tokenizer that can be read ({error}); fetch the model again") from error
