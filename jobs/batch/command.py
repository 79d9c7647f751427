"""Flags of `longtake batch`."""

from dataclasses import replace
from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.interrupt import resumable
from longtake.jobs.options import (
    RANKS,
    Address,
    AllowScheme,
    AnySize,
    BudgetMib,
    ChunkDeadline,
    Compile,
    Device,
    Dtype,
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
    nodes_s,
)


def command(
    manifest: Annotated[
        str,
        typer.Argument(metavar="MANIFEST", help="The takes to render: YAML, JSON Lines or CSV; a path or fsspec URL."),
    ],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="ROOT", help="The folder for films and ledger (default: out/NAME)."),
    ] = None,
    gangs: Annotated[
        int,
        typer.Option(min=1, help="Gangs that render in parallel, one take at a time each.", rich_help_panel=RANKS),
    ] = 1,
    max_parallel: Annotated[
        int | None,
        typer.Option(min=1, help="Upper limit of takes rendered at once (default: --gangs).", rich_help_panel=RANKS),
    ] = None,
    ranks: Annotated[
        int,
        typer.Option(min=1, help="Ranks per gang, for takes that do not set their own.", rich_help_panel=RANKS),
    ] = 1,
    threads: Threads = 1,
    device: Device = "auto",
    retries: Annotated[int, typer.Option(min=0, help="How often a failed take is retried.")] = 2,
    backoff_s: Annotated[
        float, typer.Option("--backoff", min=0, help="Seconds before the first retry; doubled for each further one.")
    ] = 2.0,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Also retry takes that used up their retries.")
    ] = False,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of one gang per hour; adds costs to the report.")
    ] = None,
    address: Address = None,
    budget_mib: BudgetMib = 256,
    chunk_deadline_s: ChunkDeadline = 900.0,
    wait_for_nodes: WaitForNodes = "10m",
    overrides: Overrides = None,
    allow_scheme: AllowScheme = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    offload: Offload = "none",
    numerics: Numerics = "exact",
    compile: Compile = "auto",  # noqa: A002 (the flag's name)
    replace_films: Replace = False,
    any_size: AnySize = False,
    progress: ProgressMode = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_level: LogLevel = None,
) -> None:
    """Render all takes of a manifest; rerun it and only unfinished takes are rendered.

    Exit codes: 0 all done, 1 some takes failed, 2 the manifest has mistakes; 130, 143 or 129 ended by
    Ctrl-C, SIGTERM or SIGHUP.
    """
    from longtake.jobs.progress import Progress

    feedback = Feedback(progress, json, verbose, quiet, log_level)
    with resumable("finished takes and chunks"), Progress(feedback, "reading the manifest") as shown:
        from longtake.jobs.batch.options import BatchOptions
        from longtake.jobs.batch.run import batch_command
        from longtake.jobs.batch.scheduler import RETRIES
        from longtake.pipeline.names import allow_schemes

        allow_schemes(allow_scheme or ())
        options = BatchOptions(
            gangs=gangs,
            max_parallel=max_parallel,
            ranks=ranks,
            threads=threads,
            retries=replace(RETRIES, retries=retries, back_off_s=backoff_s),
            retry_quarantined=retry_quarantined,
            price_per_hour=price_per_hour,
            address=address,
            budget_mib=budget_mib,
            chunk_deadline_s=chunk_deadline_s,
            nodes_s=nodes_s(wait_for_nodes),
            overrides=tuple(overrides or ()),
            dtype=dtype,
            quantize=quantize,
            device=device,
            offload=offload,
            numerics=numerics,
            compile=compile,
            replace=replace_films,
            any_size=any_size,
        )
        if code := batch_command(manifest, output, options, shown):
            raise typer.Exit(code)
