"""Flags of `longtake render`."""

from typing import Annotated

import typer

from longtake.jobs.options import (
    Address,
    AnySize,
    BudgetMib,
    ChunkDeadline,
    Device,
    DryRun,
    Dtype,
    InProcess,
    Offload,
    Overrides,
    Quantize,
    Replace,
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
    replace: Replace = False,
    watch: Annotated[bool, typer.Option("--watch", help="Also show the render in the browser, as it grows.")] = False,
    any_size: AnySize = False,
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

    Exit codes: 0 done, 1 failed, 2 the storyboard or the command line is wrong, 130 interrupted.
    """
    from json import dumps as quoted

    from longtake.jobs.render.loras import lora_key
    from longtake.jobs.render.request import Request
    from longtake.pipeline.spec import load_storyboard

    lora_override = () if loras is None else (f"loras={quoted([lora_key(lora) for lora in loras])}",)
    model_override = () if model is None else (f"model={quoted(model)}",)
    story = load_storyboard(storyboard, (*model_override, *lora_override, *(overrides or ())))
    degrees = (ranks, ulysses, ring, cfg_parallel)
    request = Request.of(story, output, device, (threads, dtype, quantize, offload, degrees))
    if not (fresh or dry_run) and request.print_finished():
        return

    from longtake.actors.load_options import load_options
    from longtake.actors.rendering import GangSpec, RenderOptions
    from longtake.jobs.render.run import dry_run_command, render_command

    options = RenderOptions(
        fresh=fresh,
        replace=replace,
        any_size=any_size,
        in_process=in_process,
        threads=threads,
        address=address,
        budget_mib=budget_mib,
        chunk_deadline_s=chunk_deadline_s,
        gang=GangSpec(ranks=ranks, ulysses=ulysses, ring=ring, cfg=cfg_parallel, gangs=gangs),
        load=load_options(dtype=dtype, quantize=quantize, device=device, offload=offload),
    )
    if dry_run:
        dry_run_command(story, output, options)
    else:
        render_command(story, request, options, watch=watch)
