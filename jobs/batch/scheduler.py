"""The scheduler: gangs render the takes of a batch in parallel, one take at a time each.

A gang is a thread of the driver with a session of its own. An error in a take concerns that take only: it is retried,
then quarantined, while the other takes continue. An error in the ledger ends the batch.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Event, Lock, Thread
from time import monotonic
from typing import Protocol

from longtake.actors.policy import TICK_S, RetryPolicy
from longtake.jobs.batch.ledger import Ledger, Record
from longtake.jobs.batch.manifest import TakeSpec
from longtake.jobs.batch.queue import TakeQueue
from longtake.pipeline.errors import ActorLost, Cancelled, CapacityError, LongtakeError, SpecError, StartError

RETRIES = RetryPolicy(retries=2, back_off_s=2.0, longest_back_off_s=60.0, immediate=0)
"""Of a take that fails, unless the user chooses others."""

START_RETRIES = RetryPolicy()
"""Of actors for a number of ranks: once it gives up, all takes that need so many ranks are skipped."""


class Stopped(BaseException):
    """The batch is to end: raised by `tick` in a render. Like `KeyboardInterrupt`, no retry can fix it."""


@dataclass(frozen=True)
class Rendered:
    """A finished take.

    Args:
        busy_s: seconds in which at least one stage worked on it; None if that is not known.
    """

    busy_s: float | None = None


class BatchSession(Protocol):
    """Where one gang renders: actors that are started for a take, and kept for the next one that they suit."""

    def ready(self, take: TakeSpec) -> None:
        """Have the actors running that `take` needs.

        Raises:
            ActorLost, CapacityError, StartError: they do not start; the take itself is not at fault.
        """
        ...

    def render(self, tick: Callable[[], None]) -> Rendered:
        """Render that take. After an error, the session can render another one.

        Args:
            tick: called a few times a second. What it raises ends the render; finished chunks are kept.
        """
        ...

    def close(self) -> None:
        """Kill the actors."""
        ...


class BatchScheduler:
    """Gangs that render a batch.

    Args:
        takes: those to be rendered.
        retries: of a take that fails.
        stop: set from outside: no further take starts, and running takes end at their next chunk.
    """

    def __init__(self, takes: tuple[TakeSpec, ...], ledger: Ledger, retries: RetryPolicy, stop: Event) -> None:
        self._queue, self._ledger, self._retries, self._stop = TakeQueue(takes), ledger, retries, stop
        self._lock = Lock()
        self._refusals: dict[int | None, list[str]] = defaultdict(list)
        self._error: BaseException | None = None

    def run(self, open_session: Callable[[], BatchSession], num_gangs: int, tick: Callable[[], None]) -> None:
        """Render until every take has ended, or until `stop`. Raises the error that ended the batch.

        Args:
            tick: called a few times a second.
        """
        gangs = [
            Thread(target=self._gang, args=(open_session,), name=f"gang-{n}", daemon=True) for n in range(num_gangs)
        ]
        for gang in gangs:
            gang.start()
        for gang in gangs:
            while gang.is_alive():
                gang.join(TICK_S)
                tick()
        if self._error is not None:
            raise self._error

    def _gang(self, open_session: Callable[[], BatchSession]) -> None:
        try:
            with closing(open_session()) as session:
                ranks = None
                while (take := self._next(ranks)) is not None:
                    ranks = take.ranks
                    record = self._try(session, take)
                    self._ledger.put(record)
                    self._put_back(take, record)
        except BaseException as error:  # noqa: BLE001  raised again by `run`, in the thread that waits for the gangs
            self._error = error
            self._stop.set()

    def _next(self, ranks: int | None) -> TakeSpec | None:
        """The next take, once one is ready; None when no take is left.

        A take that another gang renders is not waited for: if it fails, that gang tries it again.
        """
        while not self._stop.is_set():
            with self._lock:
                take = self._queue.take(monotonic(), ranks)
                if take is not None or not self._queue:
                    return take
            self._stop.wait(TICK_S)
        return None

    def _put_back(self, take: TakeSpec, record: Record) -> None:
        with self._lock:
            if record.state == "failed" and not self._is_hopeless(take):
                failures = record.attempts + len(self._refusals[take.ranks])
                self._queue.put_back(take, monotonic() + self._retries.wait_s(failures))

    def _try(self, session: BatchSession, take: TakeSpec) -> Record:
        """One attempt: the take's record after it."""
        record, started = self._ledger[take.id], monotonic()
        if self._is_hopeless(take):
            return record.left("failed", 0, self._refusals[take.ranks][-1])
        self._ledger.put(record.running())
        try:
            self._make_ready(session, take)
            rendered = session.render(self._tick)
        except (Stopped, Cancelled) as ended:  # of the batch, of this take alone
            return record.left("pending", monotonic() - started, str(ended))
        except _Refused as refused:
            return record.left("failed", monotonic() - started, str(refused))
        except SpecError as error:
            return record.failed(_cause(error), monotonic() - started, retries=0)
        except Exception as error:  # noqa: BLE001  one broken take never stops the batch, whatever it raises
            return record.failed(_cause(error), monotonic() - started, retries=self._retries.retries)
        seconds = monotonic() - started
        return record.done(seconds, None if rendered.busy_s is None else max(0.0, seconds - rendered.busy_s))

    def _make_ready(self, session: BatchSession, take: TakeSpec) -> None:
        try:
            session.ready(take)
        except (ActorLost, CapacityError, StartError) as error:
            with self._lock:
                self._refusals[take.ranks].append(_cause(error))
            raise _Refused(_cause(error)) from error
        with self._lock:
            self._refusals[take.ranks].clear()

    def _is_hopeless(self, take: TakeSpec) -> bool:
        """Whether actors for so many ranks have failed to start too often in a row; no take is at fault."""
        return START_RETRIES.gives_up(len(self._refusals[take.ranks]))

    def _tick(self) -> None:
        if self._stop.is_set():
            raise Stopped


class _Refused(Exception):  # noqa: N818 (it ends no take)
    """The actors that a take needs did not start."""


def _cause(error: Exception) -> str:
    """The message of an error, with its type where it was not raised on purpose."""
    return str(error) if isinstance(error, LongtakeError) else f"{type(error).__name__}: {error}"
