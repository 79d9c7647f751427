"""One writer at a time: whoever renders into an output root owns it, and a second is told by whom.

On this machine the operating system holds the lock, and lets go of it however its owner dies. Elsewhere the owner
renews a lease, and a lease that nobody renews runs out.
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
from time import time

from pipeline.errors import JournalError
from pipeline.journal.store import Store

NAME = "journal/writer.json"
LEASE_S = 60.0


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
        yield


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
