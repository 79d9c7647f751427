"""One writer at a time: the process that renders into an output root owns it, and a second one is refused.

On a local file system the operating system holds the lock, and releases it however its owner dies. Elsewhere an owner
holds a lease (`pipeline/journal/lease.py`). In both cases the owner has a card in the journal.

An owner may have *hands*: other processes that write for it. They can outlive it by seconds (measured: Ray's actors
die 0.6 to 10 s after a killed driver), so the next owner waits until the last hand has released its lock.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.lease import Lease, latest
from longtake.pipeline.journal.owner import NAME, OwnerCard
from longtake.pipeline.journal.store import Store

HANDS_NAME = "journal/hands.lock"
HANDS_S = 30.0

_ASKING_S = 0.5  # a process that only looks for the owner holds the lock for an instant


@contextmanager
def sole_writer(store: Store) -> Iterator[OwnerCard]:
    """Own the output root while the block runs.

    An owner that has lost its lease cannot write through `store` any more: that raises `JournalError`.

    Raises:
        JournalError: another process owns it; the message names that process.
    """
    with _locked(store) if store.is_local else _leased(store) as card:
        yield card


def owner_of(store: Store) -> OwnerCard | None:
    """The present owner of the output root; None if there is none. A lease's owner on another machine may be dead."""
    if not store.is_local:
        held = latest(store)
        return None if held is None or held.card.released or held.card.runs is False else held.card
    path = Path(store.url_of(NAME))
    if not path.exists():
        return None
    with path.open(encoding="utf-8") as file:
        return None if _locks(file, 0, fcntl.LOCK_SH) else OwnerCard.parse(file.read())


@contextmanager
def _leased(store: Store) -> Iterator[OwnerCard]:
    with Lease(store) as lease, store.guarded(lease.check):
        yield lease.card


@contextmanager
def _locked(store: Store) -> Iterator[OwnerCard]:
    path = Path(store.url_of(NAME))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _locks(file, _ASKING_S):
            file.seek(0)
            raise OwnerCard.parse(file.read()).refusal(store.url)
        card = OwnerCard.of_this_process()
        file.truncate(0)
        file.write(card.model_dump_json())
        file.flush()
        _wait_for_hands(store)
        yield card


def lend_hand(store: Store) -> IO[str] | None:
    """Write for the owner of an output root, until the returned file is closed or this process ends."""
    if not store.is_local:
        return None
    path = Path(store.url_of(HANDS_NAME))
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _wait_for_hands(store: Store) -> None:
    with Path(store.url_of(HANDS_NAME)).open("a", encoding="utf-8") as file:
        if not _locks(file, HANDS_S):
            raise JournalError(
                f"processes of an earlier render into {store.url} have been writing for {HANDS_S:g} s since"
                " it ended; end them (see who holds journal/hands.lock), or use another -o"
            )


def _locks(file: IO[str], wait_s: float, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock on `file` was acquired within `wait_s`. It is held until the file is closed."""
    deadline = monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= deadline:
                return False
            sleep(0.05)
        except OSError as error:
            raise JournalError(
                f"{Path(file.name).parent.parent} is on a file system without locks ({error.strerror}), so two renders"
                " could write there at once; mount it with locks, or use another -o"
            ) from error
        else:
            return True
