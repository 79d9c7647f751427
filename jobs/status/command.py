"""Flags of `longtake status`."""

from typing import Annotated

import typer

from longtake.jobs.options import Take


def command(
    output: Take,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh once a second until the render has ended.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print the progress of a render: stages, scenes, speed, time left."""
    from longtake.jobs.status.printing import print_status

    print_status(output, watch=watch, as_json=json)
