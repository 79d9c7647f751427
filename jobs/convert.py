"""`longtake convert`: published checkpoints to safetensors."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from longtake.jobs.options import Dtype


def command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A published checkpoint, or the folder of FlashVSR.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A folder for Wan, otherwise a .safetensors file.")],
    base: Annotated[
        str | None,
        typer.Option(help="The model that the checkpoint was trained from; its other components are copied to OUT."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Causal recipe: self-forcing, longlive or causvid (auto-detected if the checkpoint says so)."
        ),
    ] = None,
    lora: Annotated[Path | None, typer.Option(help="A LoRA to merge, such as LongLive's lora.pt.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(min=0, help="LoRA alpha (default: its rank).")] = None,
    state: Annotated[str | None, typer.Option(help="The key that holds the weights in IN, such as generator.")] = None,
    variant: Annotated[
        str | None, typer.Option(help="FlashVSR variant: v1 or v1.1 (auto-detected if its files say so).")
    ] = None,
    dtype: Dtype = None,
) -> None:
    """Convert a published checkpoint to safetensors; from pickles only tensors are read, no code is executed."""
    from longtake.actors.load_options import load_options
    from longtake.pipeline.adapters.convert import ConvertOptions, convert
    from longtake.pipeline.adapters.flashvsr.projector import Variant
    from longtake.pipeline.adapters.open import place_of
    from longtake.pipeline.errors import SpecError

    load = load_options(dtype)
    known: Variant | None = next((known for known in get_args(Variant) if known == variant), None)
    if variant is not None and known is None:
        raise SpecError(f"--variant is {variant}; use {' or '.join(get_args(Variant))}")
    options = ConvertOptions(
        recipe=recipe,
        state=state,
        base=None if base is None else place_of(base, load.cache_folder),
        lora=lora,
        lora_alpha=lora_alpha,
        variant=known,
        dtype=load.dtype,
    )
    print(f"{source} is {convert(source, output, options)}; wrote {output}")
    if output.is_dir() and base is None:
        print("It holds only the denoiser; add --base MODEL to include the text encoder and the codecs.")
