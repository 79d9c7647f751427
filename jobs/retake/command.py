"""Flags of `longtake retake`."""

from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.interrupt import resumable
from longtake.jobs.options import (
    Address,
    Device,
    Dtype,
    InProcess,
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
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="When it begins: 12s, 1m30s or 48f.")],
    stop: Annotated[str, typer.Option("--to", metavar="TIME", help="When it ends.")],
    prompt: Annotated[str | None, typer.Option(help="Another prompt (default: that of the scene).")] = None,
    streams: Annotated[
        str, typer.Option(help="What is rendered again: video, audio, or both: video,audio.")
    ] = "video,audio",
    candidates: Annotated[
        int, typer.Option(min=1, max=99, help="How many to render, each with a seed of its own.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the first; the others have the following ones.")] = 1,
    storyboard: Annotated[
        str | None, typer.Option(help="The film's storyboard, if OUT does not hold it (films of older versions).")
    ] = None,
    in_process: InProcess = False,
    address: Address = None,
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
    """Render a part of a finished film again; everything outside of it keeps its packets.

    The film stays as it is; each candidate is a film of its own below OUT/retakes, and longtake choose publishes one.

    Use the flags of the render. Run the same command again to resume.
    """
    from longtake.jobs.progress import Progress

    feedback = Feedback(progress, json, verbose, quiet, log_level)
    with resumable("finished chunks"), Progress(feedback, "loading PyTorch and Ray") as shown:
        from longtake.actors.load_options import load_options, resolve_device
        from longtake.actors.rendering import RenderOptions
        from longtake.jobs.retake.run import Wish, retake_command

        load = load_options(
            *(dtype, quantize, resolve_device(device, in_process=in_process, address=address)), numerics=numerics
        )
        options = RenderOptions(
            replace=True, any_size=True, in_process=in_process, address=address, threads=threads, load=load
        )
        wish = Wish(start, stop, prompt, tuple(name.strip() for name in streams.split(",")), candidates, seed)
        retake_command(output, wish, storyboard, options, shown)
