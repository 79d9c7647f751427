"""`longtake convert`: published checkpoints to safetensors."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, get_args

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.options import Dtype, ProgressMode


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
            help="Causal recipe: self-forcing, longlive, longlive-2, causvid or none (auto-detected if IN says so)."
        ),
    ] = None,
    lora: Annotated[
        str | None, typer.Option(metavar="FILE[:STRENGTH]", help="A LoRA to merge, in any published form.")
    ] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(min=0, help="LoRA alpha (default: as its file says, or its rank).")
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="The key or prefix that holds the weights in IN, such as generator.")
    ] = None,
    expert: Annotated[str | None, typer.Option(help="Which expert of Wan 2.2 A14B IN is: high or low (noise).")] = None,
    variant: Annotated[
        str | None, typer.Option(help="FlashVSR variant: v1 or v1.1 (auto-detected if its files say so).")
    ] = None,
    dtype: Dtype = None,
    progress: ProgressMode = "auto",
) -> None:
    """Convert a published checkpoint to safetensors; from pickles only tensors are read, no code is executed."""
    from longtake.jobs.progress import Progress
    from longtake.pipeline.errors import SpecError

    _check_places(source, output)
    if lora_alpha == 0:
        raise SpecError("--lora-alpha is 0, which merges nothing; use a positive value, such as the LoRA's rank")
    feedback = Feedback(progress)
    with Progress(feedback, "loading PyTorch") as shown:
        from longtake.actors.load_options import load_options
        from longtake.pipeline.adapters.convert import BIDIRECTIONAL, ConvertOptions, convert
        from longtake.pipeline.adapters.flashvsr.projector import Variant
        from longtake.pipeline.adapters.open import place_of
        from longtake.pipeline.adapters.presets import RECIPES
        from longtake.pipeline.spec import split_strength

        load = load_options(dtype)
        known: Variant | None = next((known for known in get_args(Variant) if known == variant), None)
        if variant is not None and known is None:
            raise SpecError(f"--variant is {variant}; use {' or '.join(get_args(Variant))}")
        if expert not in (None, "high", "low"):
            raise SpecError(f"--expert is {expert}; use high or low")
        if recipe is not None and recipe not in (*RECIPES, BIDIRECTIONAL):
            raise SpecError(f"--recipe is {recipe}; use {', '.join((*RECIPES, BIDIRECTIONAL))}")
        file, strength = (None, 1.0) if lora is None else split_strength(lora)
        options = ConvertOptions(
            recipe=recipe,
            state=state,
            base=None if base is None else place_of(base, load.cache_folder),
            lora=None if file is None else Path(file),
            strength=strength,
            expert="high" if expert == "high" else "low" if expert == "low" else None,
            lora_alpha=lora_alpha,
            variant=known,
            dtype=load.dtype,
        )
        shown.phase(f"converting {source}")
        found = convert(source, output, options)

    text = f"{source} is {found}; wrote {output}"
    if output.is_dir() and base is None:
        text += "\nIt holds only the denoiser; add --base MODEL to include the text encoder and the codecs."
    feedback.result(text, source=str(source), found=found, output=str(output))


def _check_places(source: Path, output: Path) -> None:
    """Raise `SpecError` if there is no checkpoint, or OUT cannot be written. Nothing is left there."""
    from longtake.pipeline.errors import SpecError
    from longtake.pipeline.journal.root import check_no_stream

    if not source.exists():
        raise SpecError(f"{source} does not exist; name a checkpoint, or a folder that holds one")
    check_no_stream(str(source))
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    try:
        if there == output and (output.is_file() or any(output.iterdir())):
            raise SpecError(f"{output} exists and is not overwritten; use another OUT")
        with TemporaryDirectory(prefix=".longtake-", dir=there):
            pass
    except OSError as error:
        raise SpecError(f"{output} cannot be written: {there}: {error.strerror}; use a writable OUT") from error
