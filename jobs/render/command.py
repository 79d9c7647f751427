"""Flags of `longtake render`."""

from typing import Annotated

import typer

from longtake.jobs.options import (
    Address,
    BudgetMib,
    ChunkDeadline,
    Device,
    DryRun,
    Dtype,
    InProcess,
    Offload,
    Overrides,
    Quantize,
    Threads,
)


def command(
    storyboard: Annotated[str, typer.Argument(metavar="STORYBOARD", help="The storyboard: a path or fsspec URL.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT", help="The folder to write to: a path or fsspec URL.")
    ],
    overrides: Overrides = None,
    dry_run: DryRun = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="If OUT already holds a render, start a new one in OUT-2, OUT-3, ...")
    ] = False,
    in_process: InProcess = False,
    address: Address = None,
    threads: Threads = 1,
    device: Device = "cpu",
    budget_mib: BudgetMib = 256,
    chunk_deadline_s: ChunkDeadline = 900.0,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, help="Ranks that denoise each chunk together (default: 1, or the product of the degrees)."),
    ] = None,
    ulysses: Annotated[
        int | None, typer.Option(min=1, help="Ranks that split the attention heads (default: chosen from --ranks).")
    ] = None,
    ring: Annotated[
        int | None,
        typer.Option(min=1, help="Ranks that split the tokens of each chunk (default: chosen from --ranks)."),
    ] = None,
    cfg_parallel: Annotated[
        int | None,
        typer.Option(
            min=1, max=2, help="2: compute the guidance passes on separate ranks (default: chosen from --ranks)."
        ),
    ] = None,
    gangs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Gangs that render scenes between cuts in parallel (default: 2 with parallel_scenes: true)."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name, file, folder, owner/name or URL (default: the storyboard's model)."),
    ] = None,
    loras: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:STRENGTH]",
            help="A LoRA for the whole film, in place of the storyboard's. Repeatable. Changes the output.",
        ),
    ] = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    offload: Offload = "none",
) -> None:
    """Render a storyboard to a film with sound, playable as soon as the first chunk is done.

    Rendering into a folder that already holds a render resumes it: chunks whose inputs have not changed are reused.
    """
    from json import dumps as quoted

    from longtake.actors.load_options import load_options
    from longtake.actors.rendering import GangSpec, RenderOptions
    from longtake.jobs.render.run import lora_key, render_command

    lora_override = () if loras is None else (f"loras={quoted([lora_key(lora) for lora in loras])}",)
    model_override = () if model is None else (f"model={quoted(model)}",)
    options = RenderOptions(
        fresh=fresh,
        in_process=in_process,
        threads=threads,
        address=address,
        budget_mib=budget_mib,
        chunk_deadline_s=chunk_deadline_s,
        gang=GangSpec(ranks=ranks, ulysses=ulysses, ring=ring, cfg=cfg_parallel, gangs=gangs),
        load=load_options(dtype=dtype, quantize=quantize, device=device, offload=offload),
    )
    render_command(storyboard, output, (*model_override, *lora_override, *(overrides or ())), options, dry_run=dry_run)
