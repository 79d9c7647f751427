"""Flags of `longtake submit`."""

from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.options import AllowScheme, Json, LogLevel, Overrides, ProgressMode, Quiet, Verbose


def command(
    storyboard: Annotated[
        str, typer.Argument(metavar="STORYBOARD|MANIFEST", help="What to render: a path or fsspec URL.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="OUT", help="The folder to write to: a URL, or a path that all nodes share."
        ),
    ],
    address: Annotated[
        str,
        typer.Option(
            envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
            help="The cluster's dashboard, such as http://127.0.0.1:8265.",
        ),
    ],
    flags: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- FLAGS", help="Flags passed on to render or batch, such as --ranks 4."),
    ] = None,
    overrides: Overrides = None,
    allow_scheme: AllowScheme = None,
    follow: Annotated[
        bool,
        typer.Option("--follow/--no-wait", help="Follow the job's log and exit with its code, or just print its id."),
    ] = True,
    progress: ProgressMode = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_level: LogLevel = None,
) -> None:
    """Render on a Ray cluster, as a job that keeps running without this machine.

    The flags on what is printed are those of this command; those of the job follow --, such as -- --progress json.
    """
    from longtake.jobs.progress import Progress

    feedback = Feedback(progress, json, verbose, quiet, log_level)
    with Progress(feedback, "loading Ray") as shown:
        from longtake.jobs.submit.parcel import SubmitOptions
        from longtake.jobs.submit.run import submit_command
        from longtake.pipeline.names import allow_schemes

        allow_schemes(allow_scheme or ())
        also = [part for scheme in allow_scheme or () for part in ("--allow-scheme", scheme)]
        options = SubmitOptions(
            address=address.strip().rstrip("/"),
            output=output,
            overrides=tuple(overrides or ()),
            flags=(*also, *(flags or ())),
            follow=follow,
        )
        if code := submit_command(storyboard, options, shown):
            raise typer.Exit(code)
