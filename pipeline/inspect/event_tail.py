"""Incremental reading of a take's event log while a render writes it."""

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
    """Reads each line of an event log once.

    From a local file only the added bytes are read. From an object store the whole log is fetched, but never more than
    a twentieth of the time is spent on it; a render uploads its log at the same rate.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._next_read = store, 0.0
        self._offset = 0
        self._head = b""

    def poll(self) -> tuple[bool, Iterator[Event]]:
        """Whether the log was replaced by a new one since the last poll, and the events added to it.

        The events are read lazily: exhaust the iterator before the next poll.
        """
        log = self._open()
        if log is None:
            return False, iter(())
        replaced = log.read(len(self._head)) != self._head or log.seek(0, SEEK_END) < self._offset
        if replaced:
            self._offset, self._head = 0, b""
        log.seek(self._offset)
        return replaced, self._added(log)

    def _added(self, log: BinaryIO) -> Iterator[Event]:
        with log:
            for line in log:
                if not line.endswith(b"\n"):
                    return  # incomplete; the next poll reads this line again
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
        return None  # a writer died in the middle of the line
    return event if isinstance(event, dict) and "time" in event and "event" in event else None
