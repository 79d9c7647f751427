"""New lines of a take's event log, read once each, while a render goes on writing it."""

import json
from collections.abc import Iterator
from io import SEEK_END, BytesIO
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

from longtake.pipeline.journal.event_log import NAME
from longtake.pipeline.journal.store import Store

Event = dict[str, Any]
"""One line of the log: `time`, `event` and the event's fields."""


class EventTail:
    """Reads an event log by and by.

    On this machine only what was added is read. An object store's log is read as a whole, at most a twentieth of the
    time, which is as often as a render puts it.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._next_read = store, 0.0
        self._offset = 0
        self._head = b""

    def poll(self) -> tuple[bool, Iterator[Event]]:
        """Whether the log was begun anew since the last poll, and the events that were added to it.

        The events are read while they are iterated over; take them all before the next poll.
        """
        log = self._open()
        if log is None:
            return False, iter(())
        anew = log.read(len(self._head)) != self._head or log.seek(0, SEEK_END) < self._offset
        if anew:
            self._offset, self._head = 0, b""
        log.seek(self._offset)
        return anew, self._added(log)

    def _added(self, log: BinaryIO) -> Iterator[Event]:
        with log:
            for line in log:
                if not line.endswith(b"\n"):
                    return  # torn, or still being written; read again from its beginning
                self._offset += len(line)
                self._head = self._head or line
                event = _event(line)
                if event is not None:
                    yield event

    def _open(self) -> BinaryIO | None:
        try:
            if self._store.is_local:
                return Path(self._store.url_of(NAME)).open("rb")
            return self._fetch()
        except FileNotFoundError:
            return None

    def _fetch(self) -> BinaryIO | None:
        started = monotonic()
        if started < self._next_read:
            return None
        try:
            return BytesIO(self._store.get(NAME))
        finally:
            self._next_read = monotonic() + max(2.0, 20 * (monotonic() - started))


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None  # a writer died within it
    return event if isinstance(event, dict) and "time" in event and "event" in event else None
