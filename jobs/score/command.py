"""Flags of `longtake score`."""

from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.interrupt import resumable
from longtake.jobs.options import (
    Address,
    Device,
    DryRun,
    Dtype,
    InProcess,
    Json,
    LogLevel,
    Numerics,
    Overrides,
    ProgressMode,
    Quiet,
    Threads,
    Verbose,
)


def command(
    footage: Annotated[str, typer.Argument(metavar="IN", help="The film that gets a sound: a path or fsspec URL.")],
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="OUT", help="The .mp4, .mov or .mkv to write: a path or fsspec URL."),
    ],
    prompt: Annotated[str, typer.Option(help="What is seen and heard, as the model's prompts say it.")],
    model: Annotated[str, typer.Option(help="A model with sound: a name, file, folder, owner/name or URL.")] = (
        "sounding-shapes"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives another sound.")] = 0,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    in_process: InProcess = False,
    address: Address = None,
    threads: Threads = 1,
    device: Device = "auto",
    dtype: Dtype = None,
    numerics: Numerics = "exact",
    progress: ProgressMode = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_level: LogLevel = None,
) -> None:
    """Render sound for a film. Its picture and all that is not sound are copied unchanged; its own sound is replaced.

    The model sees the picture at its own size and rate. Run the same command again to resume.
    """
    from longtake.jobs.progress import Progress

    feedback = Feedback(progress, json, verbose, quiet, log_level)
    with resumable("finished chunks"), Progress(feedback, "loading PyTorch and Ray") as shown:
        from longtake.actors.load_options import load_options, resolve_device
        from longtake.actors.rendering import RenderOptions
        from longtake.jobs.score.run import score_command, storyboard_of

        options = RenderOptions(
            in_process=in_process,
            threads=threads,
            address=address,
            replace=True,
            load=load_options(
                dtype,
                None,
                resolve_device(device, in_process=in_process, address=address),
                numerics=numerics,
            ),
        )
        shown.phase("reading the footage")
        film, story = storyboard_of(footage, prompt, model, seed, overrides or ())
        score_command(film, output, story, options, shown, dry_run=dry_run)
