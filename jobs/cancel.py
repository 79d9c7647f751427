"""`longtake cancel`: ask what runs in an output folder to stop, and wait until it has: a render, or a whole batch."""

from collections.abc import Iterator
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated

import typer

from longtake.jobs.options import TakeOrBatch

if TYPE_CHECKING:
    from longtake.pipeline.journal.store import Store


def command(
    output: TakeOrBatch,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for it to stop.")] = 30.0,
) -> None:
    """Ask the render or the batch that owns OUT to stop cleanly, from any machine; finished chunks are kept."""
    from longtake.pipeline.errors import JournalError
    from longtake.pipeline.journal.cancel import request_cancel
    from longtake.pipeline.journal.writer import owner_of

    asked, places = monotonic(), list(_places(output))
    owners = {place: owner for place in places if (owner := request_cancel(place)) is not None}
    if not owners:
        print(f"No {'render' if len(places) == 1 else 'batch and no render'} owns {places[0].url}.")
        return
    for owner in {owner.token: owner for owner in owners.values()}.values():
        print(f"Asked {owner.who} to stop.", flush=True)
    for place, owner in owners.items():
        while (now := owner_of(place)) is not None and now.token == owner.token:
            if monotonic() - asked > wait_s:
                raise JournalError(
                    f"{owner.who} has not released {place.url} within {wait_s:g} s; it stops after its current chunk"
                    " unless it has crashed: check longtake status; if it has, the same command takes over"
                )
            sleep(0.25)
    released = places[0].url if len(owners) == 1 else f"{len(owners)} folders"
    print(f"It released {released} after {monotonic() - asked:.1f} s; run the same command to resume.")


def _places(output: str) -> "Iterator[Store]":
    """The folders in `output` that a process may own: that of a take, or of a batch and of its unfinished takes."""
    from longtake.jobs.batch.ledger import ENDED
    from longtake.jobs.batch.roster import batch_folder, read_records
    from longtake.pipeline.journal.root import take_root
    from longtake.pipeline.journal.store import Store
    from longtake.pipeline.journal.writer import owner_of

    root = take_root(output, may_come=True)
    batch = batch_folder(root)
    if batch is None:
        # The card of a take comes once its actors have started, its owner before.
        yield root if owner_of(root) is not None else take_root(output)
        return
    yield batch
    for record in read_records(batch):
        if record.state not in ENDED:
            yield Store(record.output)
