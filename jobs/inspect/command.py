"""Flags of `longtake inspect`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.options import Json, ProgressMode


class Grade(StrEnum):
    """A grade that can fail the command."""

    look = "look"
    bad = "bad"


def command(
    film: Annotated[
        str, typer.Argument(metavar="FILM_OR_TAKE", help="A film, or the output folder of a render: a path or URL.")
    ],
    against: Annotated[str | None, typer.Option(metavar="OTHER", help="A film to compare it with.")] = None,
    chunk: Annotated[
        str | None, typer.Option(help="The length of a chunk, such as 1s (default: as rendered, if known).")
    ] = None,
    json: Json = False,
    progress: ProgressMode = "auto",
    html: Annotated[Path | None, typer.Option(metavar="PAGE", help="Also write a page with charts.")] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Also write a contact sheet.")] = None,
    fail_on: Annotated[
        Grade | None, typer.Option(help="Exit with 1 if a figure has this grade or a worse one.")
    ] = None,
) -> None:
    """Measure any film: counts, shots, seams, drift, sync, loudness, and how well sounds match what is seen.

    Exit codes: 0 measured, 1 a figure has the grade of --fail-on, 2 the film cannot be measured.
    """
    from longtake.jobs.progress import Progress

    with Progress(Feedback(progress, json), "loading PyTorch") as shown:
        from longtake.jobs.inspect.printing import FAIL_ON, inspect_command

        grade = inspect_command(film, against, chunk, shown, html=html, sheet=sheet)
    if fail_on is not None and grade in FAIL_ON[fail_on.value]:
        raise typer.Exit(1)
