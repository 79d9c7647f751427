"""The scribe: one actor that writes down what all others do, in the order in which it hears of it."""

from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from longtake.actors.metrics import meters
from longtake.pipeline.journal.event_log import EventLog, now
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import lend_hand

SETTLE_S = 30.0
_UNHEARD = 64


class EventLogActor:
    """Writes the event log of the take that it hears of, and hands events on to whoever draws progress.

    It holds nothing that must outlive it: Ray starts it again where it dies, and it goes on with the log.
    """

    def __init__(self) -> None:
        self._url = ""
        self._log: EventLog | None = None
        self._hand: Any = None
        self._news: list[tuple[str, dict[str, Any]]] = []
        self._meters = meters()

    def event(self, url: str, name: str, fields: dict[str, Any]) -> None:
        """Write one event of the take at `url`."""
        self._log_at(url).event(name, **fields)
        self._news.append((name, fields))
        self._meters.event(name, fields)

    def in_flight(self, num_bytes: int) -> None:
        """Have the metrics say what the chunks in flight weigh."""
        self._meters.in_flight(num_bytes)

    def news(self) -> list[tuple[str, dict[str, Any]]]:
        """The events since the last call."""
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Put the last events where the log belongs."""
        log, self._log = self._log, None
        if log is not None:
            log.close()
        if self._hand is not None:
            self._hand.close()
            self._hand = None

    def _log_at(self, url: str) -> EventLog:
        if self._log is not None and self._url == url:
            return self._log
        self.close()
        store = Store(url)
        self._url, self._hand = url, lend_hand(store)
        self._log = EventLog(store).__enter__()
        return self._log


class RemoteObserver:
    """An observer that tells the scribe, who may hear of it later than it happened."""

    def __init__(self, event_log: ActorHandle, url: str) -> None:
        self._event_log, self._url = event_log, url
        self._told: list[ObjectRef] = []

    def event(self, name: str, **fields: Any) -> None:
        """See `longtake.pipeline.observe.Observer.event`."""
        self._told.append(self._event_log.event.remote(self._url, name, {"time": now(), **fields}))
        if len(self._told) >= _UNHEARD:
            _, self._told = ray.wait(self._told, num_returns=len(self._told), timeout=0)

    def settle(self) -> None:
        """Wait until the scribe has heard everything, also where it had to be started again."""
        if self._told:
            ray.wait(self._told, num_returns=len(self._told), timeout=SETTLE_S)
        self._told.clear()
