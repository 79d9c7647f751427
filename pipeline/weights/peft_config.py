"""The file in which peft states the strength of a LoRA, next to its tensors."""

import fsspec

from longtake.pipeline.errors import WeightsError

PEFT_CONFIG = "adapter_config.json"
LONGEST_CONFIG = 2**20


def peft_config(url: str) -> str | None:
    """The adapter_config.json next to peft's adapter_model file at a path or URL, which holds alpha; None if it is no
    such file, or stands alone. Raises `WeightsError` if it cannot be read."""
    folder, _, name = url.rpartition("/")
    if not name.startswith("adapter_model."):
        return None
    place = f"{folder}/{PEFT_CONFIG}" if folder else PEFT_CONFIG
    try:
        with fsspec.open(place, "r", encoding="utf-8") as opened:
            text: str = opened.read(LONGEST_CONFIG)
    except FileNotFoundError:
        return None
    except Exception as error:  # every file system has its own errors
        raise WeightsError(f"{place} cannot be read: {error}; it holds the strength of {name}") from error
    return text
