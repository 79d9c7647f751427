"""The scribe: one actor that writes down what all others do, in the order in which it hears of it."""

from typing import Any

from ray.actor import ActorHandle

from pipeline.journal.event_log import EventLog, now
from pipeline.journal.store import Store
from pipeline.journal.writer import lend_hand


class Scribe:
    """Writes the event log, and hands events on to whoever draws progress."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self._log = EventLog(self._store)
        self._heard: list[tuple[str, dict[str, Any]]] = []

    def open(self) -> None:
        """Go on with the log that is there."""
        self._hand = lend_hand(self._store)
        self._log.__enter__()

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Write one event."""
        self._log.event(name, **fields)
        self._heard.append((name, fields))

    def news(self) -> list[tuple[str, dict[str, Any]]]:
        """The events since the last call."""
        news, self._heard = self._heard, []
        return news

    def close(self) -> None:
        """Put the last events where the log belongs."""
        self._log.close()


class RemoteObserver:
    """An observer that tells the scribe, who may hear of it later than it happened."""

    def __init__(self, scribe: ActorHandle) -> None:
        self._scribe = scribe

    def event(self, name: str, **fields: Any) -> None:
        """See `pipeline.observe.Observer.event`."""
        self._scribe.event.remote(name, {"time": now(), **fields})
