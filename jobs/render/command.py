"""Flags of `longtake render`."""

from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.interrupt import resumable
from longtake.jobs.options import (
    COMPUTE,
    RANKS,
    Accelerate,
    Address,
    AllowScheme,
    AnySize,
    BudgetMib,
    ChunkDeadline,
    Compile,
    Device,
    DryRun,
    Dtype,
    InProcess,
    Json,
    LogLevel,
    Numerics,
    Offload,
    Overrides,
    ProgressMode,
    Quantize,
    Quiet,
    Replace,
    Threads,
    Verbose,
    WaitForNodes,
    accelerate_override,
    nodes_s,
)


def command(
    storyboard: Annotated[str, typer.Argument(metavar="STORYBOARD", help="The storyboard: a path or fsspec URL.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT", help="The folder to write to: a path or fsspec URL.")
    ],
    overrides: Overrides = None,
    allow_scheme: AllowScheme = None,
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
    device: Device = "auto",
    budget_mib: BudgetMib = 256,
    chunk_deadline_s: ChunkDeadline = 900.0,
    wait_for_nodes: WaitForNodes = "10m",
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Ranks that denoise each chunk together (default: 1, or the product of the degrees).",
            rich_help_panel=RANKS,
        ),
    ] = None,
    ulysses: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Ranks that split the attention heads (default: chosen from --ranks).",
            rich_help_panel=RANKS,
        ),
    ] = None,
    ring: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Ranks that split the tokens of each chunk (default: chosen from --ranks).",
            rich_help_panel=RANKS,
        ),
    ] = None,
    cfg_parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2,
            help="2: compute the guidance passes on separate ranks (default: chosen from --ranks).",
            rich_help_panel=RANKS,
        ),
    ] = None,
    gangs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Gangs that render scenes between cuts in parallel (default: 2 with parallel_scenes: true).",
            rich_help_panel=RANKS,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A name, file, folder, owner/name or URL (default: the storyboard's model).", rich_help_panel=COMPUTE
        ),
    ] = None,
    loras: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:STRENGTH]",
            help="A LoRA for the whole film, in place of the storyboard's. Repeatable. Changes the output.",
        ),
    ] = None,
    accelerate: Accelerate = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    offload: Offload = "none",
    numerics: Numerics = "exact",
    compile: Compile = "auto",  # noqa: A002 (the flag's name)
    progress: ProgressMode = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_level: LogLevel = None,
) -> None:
    """Render a storyboard to a film with sound, playable as soon as the first chunk is done.

    Rendering into a folder that already holds a render resumes it: chunks whose inputs have not changed are reused.

    Exit codes: 0 done, 1 failed (finished chunks are kept), 2 the command or the storyboard is wrong;
    130, 143 or 129 ended by Ctrl-C, SIGTERM or SIGHUP.
    """
    from json import dumps as quoted

    from longtake.jobs.progress import Progress
    from longtake.jobs.render.loras import lora_key
    from longtake.jobs.render.request import Request, device_here
    from longtake.pipeline.names import allow_schemes
    from longtake.pipeline.spec import load_storyboard

    allow_schemes(allow_scheme or ())
    feedback = Feedback(progress, json, verbose, quiet, log_level)
    lora_override = () if loras is None else (f"loras={quoted([lora_key(lora) for lora in loras])}",)
    model_override = () if model is None else (f"model={quoted(model)}",)
    named = (*model_override, *lora_override, *accelerate_override(accelerate))
    story = load_storyboard(storyboard, (*named, *(overrides or ())))
    degrees = (ranks, ulysses, ring, cfg_parallel)
    bits = (threads, dtype, quantize, offload, numerics, compile, degrees)
    request = Request.of(story, output, device_here(device, address), bits)
    if not (fresh or dry_run) and request.print_finished(feedback):
        return

    with resumable("finished chunks"), Progress(feedback, "loading PyTorch and Ray") as shown:
        from longtake.actors.load_options import load_options, resolve_device
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
            nodes_s=nodes_s(wait_for_nodes),
            gang=GangSpec(ranks=ranks, ulysses=ulysses, ring=ring, cfg=cfg_parallel, gangs=gangs),
            load=load_options(
                *(dtype, quantize, resolve_device(device, in_process=in_process, address=address)),
                *(offload, numerics, compile),
            ),
        )
        if dry_run:
            dry_run_command(story, output, options, shown)
        else:
            render_command(story, request, options, shown, watch=watch)
