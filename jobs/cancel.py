"""`longtake cancel`: ask the render that owns an output folder to stop, and wait until it has."""

from time import monotonic, sleep
from typing import Annotated

import typer

from longtake.jobs.options import Take


def command(
    output: Take,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the render to stop.")] = 30.0,
) -> None:
    """Ask the render that owns OUT to stop cleanly, from any machine; finished chunks are kept."""
    from longtake.pipeline.errors import JournalError
    from longtake.pipeline.journal.cancel import request_cancel
    from longtake.pipeline.journal.root import take_root
    from longtake.pipeline.journal.writer import owner_of

    store, asked = take_root(output), monotonic()
    owner = request_cancel(store)
    if owner is None:
        print(f"No render owns {store.url}.")
        return
    print(f"Asked {owner.who} to stop.", flush=True)
    while (now := owner_of(store)) is not None and now.token == owner.token:
        if monotonic() - asked > wait_s:
            raise JournalError(
                f"{owner.who} has not released {store.url} within {wait_s:g} s; it stops after its current chunk"
                " unless it has crashed: check longtake status; if it has, the same render command takes over"
            )
        sleep(0.25)
    print(f"It released {store.url} after {monotonic() - asked:.1f} s; run the same render command to resume.")
