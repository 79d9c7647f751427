"""`longtake cancel`: ask the render that owns an output root to stop in order, and see that it does."""

from time import monotonic, sleep

from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.cancel import request_cancel
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import owner_of


def cancel_command(output: str, wait_s: float) -> None:
    """Ask, and wait until the owner has let go. Raises `JournalError` if it has not within `wait_s`."""
    store, asked = Store(output), monotonic()
    owner = request_cancel(store)
    if owner is None:
        print(f"Nobody is rendering into {store.url}.")
        return
    print(f"Asked {owner.who} to stop.", flush=True)
    while (now := owner_of(store)) is not None and now.token == owner.token:
        if monotonic() - asked > wait_s:
            raise JournalError(
                f"{owner.who} has not let go of {store.url} within {wait_s:g} s; it stops after its present chunk"
                " unless it is dead: see longtake status, and the same render command takes over from a dead one"
            )
        sleep(0.25)
    print(f"It has let go of {store.url} after {monotonic() - asked:.1f} s; the same render command goes on there.")
