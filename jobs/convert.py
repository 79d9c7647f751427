"""`longtake convert`: published checkpoints to safe files."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from jobs.weights import load_options
from pipeline.adapters.convert import ConvertOptions, convert
from pipeline.adapters.flashvsr_projector import Variant
from pipeline.adapters.open import place_of
from pipeline.errors import SpecError


@dataclass(frozen=True)
class ConvertWish:
    """Flags of `longtake convert`; see its help."""

    base: str | None = None
    recipe: str | None = None
    lora: Path | None = None
    lora_alpha: float | None = None
    state: str | None = None
    variant: str | None = None
    dtype: str | None = None


def convert_command(source: Path, output: Path, wish: ConvertWish) -> None:
    """Convert, and say what it was and how to use it."""
    load = load_options(wish.dtype)
    variant: Variant | None = next((known for known in get_args(Variant) if known == wish.variant), None)
    if wish.variant is not None and variant is None:
        raise SpecError(f"--variant is {wish.variant}; use {' or '.join(get_args(Variant))}")
    options = ConvertOptions(
        wish.recipe,
        wish.state,
        None if wish.base is None else place_of(wish.base, load.cache_folder),
        *(wish.lora, wish.lora_alpha, variant, load.dtype),
    )
    print(f"{source} is {convert(source, output, options)}; wrote {output}")
    if output.is_dir() and wish.base is None:
        print("It holds the denoiser only: with --base MODEL the text encoder and the codecs come along.")
