"""Flags of `longtake choose`."""

from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.options import (
    Device,
    Dtype,
    Json,
    LogLevel,
    Numerics,
    ProgressMode,
    Quantize,
    Quiet,
    Take,
    Threads,
    Verbose,
)


def command(
    output: Take,
    candidate: Annotated[
        int, typer.Argument(metavar="NUMBER", min=0, help="Of the candidate; 0 for the film as it was.")
    ],
    retake: Annotated[int | None, typer.Option(min=1, help="Of which retake (default: the latest).")] = None,
    threads: Threads = 1,
    device: Device = "auto",
    dtype: Dtype = None,
    quantize: Quantize = None,
    numerics: Numerics = "exact",
    progress: ProgressMode = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_level: LogLevel = None,
) -> None:
    """Publish a candidate of `longtake retake` as the film of OUT. Nothing is rendered, and no candidate is lost.

    Use the flags of the render.
    """
    from longtake.jobs.progress import Progress

    feedback = Feedback(progress, json, verbose, quiet, log_level)
    with Progress(feedback, "loading PyTorch") as shown:
        from longtake.actors.load_options import load_options, resolve_device
        from longtake.actors.rendering import RenderOptions
        from longtake.jobs.retake.run import choose_command

        load = load_options(
            *(dtype, quantize, resolve_device(device, in_process=True, address=None)), numerics=numerics
        )
        options = RenderOptions(replace=True, any_size=True, in_process=True, threads=threads, load=load)
        choose_command(output, candidate, retake, options, shown)
