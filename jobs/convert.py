"""`longtake convert`: published checkpoints to safe files."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from longtake.jobs.weights import load_options
from longtake.pipeline.adapters.convert import ConvertOptions, convert
from longtake.pipeline.adapters.flashvsr.projector import Variant
from longtake.pipeline.adapters.open import place_of
from longtake.pipeline.errors import SpecError


@dataclass(frozen=True)
class ConvertSpec:
    """Flags of `longtake convert`; see its help."""

    base: str | None = None
    recipe: str | None = None
    lora: Path | None = None
    lora_alpha: float | None = None
    state: str | None = None
    variant: str | None = None
    dtype: str | None = None


def convert_command(source: Path, output: Path, spec: ConvertSpec) -> None:
    """Convert, and say what it was and how to use it."""
    load = load_options(spec.dtype)
    variant: Variant | None = next((known for known in get_args(Variant) if known == spec.variant), None)
    if spec.variant is not None and variant is None:
        raise SpecError(f"--variant is {spec.variant}; use {' or '.join(get_args(Variant))}")
    options = ConvertOptions(
        spec.recipe,
        spec.state,
        None if spec.base is None else place_of(spec.base, load.cache_folder),
        *(spec.lora, spec.lora_alpha, variant, load.dtype),
    )
    print(f"{source} is {convert(source, output, options)}; wrote {output}")
    if output.is_dir() and spec.base is None:
        print("It holds the denoiser only: with --base MODEL the text encoder and the codecs come along.")
