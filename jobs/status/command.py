"""Flags of `longtake status`."""

from typing import Annotated

import typer

from longtake.jobs.options import TakeOrBatch


def command(
    output: TakeOrBatch,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh once a second until it has ended.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print the progress of a render: stages, scenes, speed, time left; of a batch: its takes, and those that run."""
    from longtake.jobs.status.printing import print_status

    print_status(output, watch=watch, as_json=json)
