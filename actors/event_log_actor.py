"""One actor writes the event log of a take for all others, in the order in which events reach it."""

from collections.abc import Mapping
from typing import IO, Any

import ray
from typing_extensions import override

from longtake.actors.handles import Handle, Ref, runtime_env
from longtake.actors.metrics import meters
from longtake.pipeline.journal.event_log import EventLog, now
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import lend_hand
from longtake.pipeline.observe import Observer

SETTLE_S = 30.0
_MAX_PENDING = 64


class EventLogActor:
    """Writes the event log of the take that events name, and hands events on to the driver, which draws progress.

    Its state may be lost: Ray restarts it when it dies, and it appends to the same log.
    """

    def __init__(self) -> None:
        self._url = ""
        self._log: EventLog | None = None
        self._hand: IO[str] | None = None
        self._news: list[tuple[str, dict[str, Any]]] = []
        self._meters = meters()

    def event(self, url: str, name: str, fields: dict[str, Any]) -> None:
        """Write one event of the take at `url`."""
        self._log_at(url).event(name, **fields)
        self._news.append((name, fields))
        self._meters.event(name, fields)

    def in_flight(self, num_bytes: int) -> None:
        """Set the metric of the bytes in flight."""
        self._meters.in_flight(num_bytes)

    def news(self) -> list[tuple[str, dict[str, Any]]]:
        """The events since the last call."""
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Close the log; its last events are then in the store."""
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


def start_event_log(env: Mapping[str, str]) -> Handle:
    """Start an event log actor, with these environment variables, which Ray restarts whenever it dies."""
    actor: Any = ray.remote(EventLogActor)
    handle: Handle = actor.options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, runtime_env=runtime_env(env)
    ).remote()
    return handle


class RemoteObserver(Observer):
    """An observer that sends events to the event log actor and does not wait for it."""

    def __init__(self, event_log: Handle, url: str) -> None:
        self._event_log, self._url = event_log, url
        self._pending: list[Ref] = []

    @override
    def event(self, name: str, **fields: Any) -> None:
        self._pending.append(self._event_log.event.remote(self._url, name, {"time": now(), **fields}))
        if len(self._pending) >= _MAX_PENDING:
            _, self._pending = ray.wait(self._pending, num_returns=len(self._pending), timeout=0)

    def settle(self) -> None:
        """Wait until the event log actor has all events, also where Ray had to restart it."""
        if self._pending:
            ray.wait(self._pending, num_returns=len(self._pending), timeout=SETTLE_S)
        self._pending.clear()
