"""The LoRAs that flags of `longtake render` name."""

from pathlib import Path

from longtake.pipeline.names import scheme_of
from longtake.pipeline.spec import split_strength


def lora_key(option: str) -> dict[str, str | float]:
    """The storyboard's entry for `--lora FILE[:STRENGTH]`; a path is relative to the working directory."""
    file, strength = split_strength(option)
    return {"file": file if scheme_of(file) else str(Path(file).expanduser().absolute()), "strength": strength}
