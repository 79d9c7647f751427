"""One writer at a time: whoever renders into an output root owns it, and a second is told by whom.

On this machine the operating system holds the lock, and lets go of it however its owner dies. Elsewhere the owner
renews a lease, and a lease that nobody renews runs out.

An owner may have *hands*: other processes that write for it. They can outlive it by seconds (measured: Ray's actors
die 0.6 to 10 s after a driver that was killed), so the next owner waits until the last hand has let go.
"""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep, time
from typing import IO

from pipeline.errors import JournalError
from pipeline.journal.store import Store

NAME = "journal/writer.json"
HANDS_NAME = "journal/hands.lock"
LEASE_S = 60.0
HANDS_S = 30.0


@contextmanager
def sole_writer(store: Store) -> Iterator[None]:
    """Own the output root while the block runs. Raises `JournalError` naming the owner if somebody else does."""
    with _locked(store) if store.is_local else _leased(store):
        yield


def _card() -> dict[str, object]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "renewed": time()}


def _refusal(store: Store, owner: dict[str, object]) -> JournalError:
    who = f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('started')}"
    return JournalError(f"{store.url} is being rendered by {who}; wait for it, stop it, or use another -o")


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    path = Path(store.url_of(NAME))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _refusal(store, json.loads(file.read() or "{}")) from None
        file.truncate(0)
        json.dump(_card(), file)
        file.flush()
        _wait_for_hands(store)
        yield


def lend_hand(store: Store) -> IO[str] | None:
    """Write for the owner of an output root, until the file that is returned is closed or this process ends."""
    if not store.is_local:
        return None
    path = Path(store.url_of(HANDS_NAME))
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _wait_for_hands(store: Store) -> None:
    deadline = monotonic() + HANDS_S
    with Path(store.url_of(HANDS_NAME)).open("a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if monotonic() > deadline:
                    raise JournalError(
                        f"processes of an earlier render into {store.url} have been writing for {HANDS_S:g} s since"
                        " it ended; end them (see who holds journal/hands.lock), or use another -o"
                    ) from None
                sleep(0.05)


@contextmanager
def _leased(store: Store) -> Iterator[None]:
    owner = json.loads(store.get(NAME)) if store.exists(NAME) else {}
    if time() - owner.get("renewed", 0) < LEASE_S:
        raise _refusal(store, owner)
    card, over = _card(), threading.Event()

    def renew() -> None:
        while not over.wait(LEASE_S / 4):
            store.put(NAME, json.dumps({**card, "renewed": time()}).encode())

    store.put(NAME, json.dumps(card).encode())
    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        store.put(NAME, json.dumps({**card, "renewed": 0}).encode())
