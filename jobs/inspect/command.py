"""Flags of `longtake inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from longtake.jobs.options import Json


def command(
    film: Annotated[
        str, typer.Argument(metavar="FILM_OR_TAKE", help="A film, or the output folder of a render: a path or URL.")
    ],
    against: Annotated[str | None, typer.Option(metavar="OTHER", help="A film to compare it with.")] = None,
    chunk: Annotated[
        str | None, typer.Option(help="The length of a chunk, such as 1s (default: as rendered, if known).")
    ] = None,
    json: Json = False,
    html: Annotated[Path | None, typer.Option(metavar="PAGE", help="Also write a page with charts.")] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Also write a contact sheet.")] = None,
) -> None:
    """Measure a film: counts, seams, drift, sync, loudness, and how well sounds match what is seen."""
    from longtake.jobs.inspect.printing import inspect_command

    inspect_command(film, against, chunk, as_json=json, html=html, sheet=sheet)
