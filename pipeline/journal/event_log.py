"""`events.jsonl`: the events of a render, one JSON object a line."""

import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from types import TracebackType
from typing import Any, Self

from longtake.pipeline.journal.store import Store
from longtake.pipeline.names import redacted

NAME = "events.jsonl"


def now() -> str:
    """The present time, in the format of events."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class EventLog:
    """An observer that writes events to a local store at once, and to a remote one at intervals.

    An existing log is continued. An object store cannot append, so the whole log is written again each time, which may
    take a twentieth of the time.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="longtake-")
        path = Path(self._store.url_of(NAME)) if self._store.is_local else Path(self._folder.name) / NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._store.is_local and self._store.exists(NAME):
            path.write_bytes(self._store.get(NAME))
        self._file = path.open("a+", encoding="utf-8", buffering=1)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._file.write("\n")  # the last writer died within a line
        self._path, self._put_next = path, 0.0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.event("road.failed", error=kind.__name__, message=str(error))
        self.close()

    def close(self) -> None:
        """Write the last events to the store."""
        self._file.close()
        self._put()
        self._folder.cleanup()

    def event(self, name: str, **fields: Any) -> None:
        """Write an event. `time` is when it happened; by default now."""
        line = {"time": now(), "event": name, **fields}
        self._file.write(redacted(json.dumps(line)) + "\n")
        if monotonic() >= self._put_next:
            self._put()

    def _put(self) -> None:
        if self._store.is_local:
            return
        started = monotonic()
        self._store.put_file(NAME, self._path)
        self._put_next = monotonic() + max(2.0, 20 * (monotonic() - started))
