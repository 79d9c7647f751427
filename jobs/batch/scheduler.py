"""The pool: gangs that render the takes of a batch side by side, each one take at a time.

A gang is a thread of the driver with a studio of its own. Whatever a take raises is the take's own misfortune: it is
retried, then quarantined, and the others go on. Whatever the ledger raises ends the batch.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Event, Lock, Thread
from time import monotonic
from typing import Protocol

from longtake.jobs.batch.ledger import Ledger, Record
from longtake.jobs.batch.manifest import TakeSpec
from longtake.jobs.batch.queue import TakeQueue
from longtake.pipeline.errors import ActorLost, CapacityError, LongtakeError, SpecError

TICK_S = 0.25
_LONGEST_WAIT_S = 60.0
MOST_REFUSALS = 3
"""So often in a row actors for a number of ranks may fail to start; then the takes that ask for them are left."""


class Stopped(BaseException):
    """The batch is to end: what `beat` raises in a render. Like `KeyboardInterrupt`, it is nothing to be mended."""


@dataclass(frozen=True)
class Rendered:
    """What a studio tells of a finished take: for how long an act was at work on it, None if that is not known."""

    work_s: float | None = None


class RenderSession(Protocol):
    """Where one gang renders: actors that are started for a take, and stay for the next one that they suit."""

    def ready(self, take: TakeSpec) -> None:
        """Have the actors standing that `take` asks for. Raises `CapacityError` or `ActorLost` where they do not."""
        ...

    def render(self, tick: Callable[[], None]) -> Rendered:
        """Render that take; raises whatever kept it from being done, after which another one can be tried.

        Args:
            beat: called a few times a second. What it raises ends the render with what is finished kept.
        """
        ...

    def close(self) -> None:
        """Let the actors go."""
        ...


@dataclass(frozen=True)
class Retries:
    """How often a take is tried again, and after how long the first time; twice as long every further time."""

    most: int = 2
    backoff_s: float = 2.0

    def wait_s(self, failures: int) -> float:
        """Seconds before the attempt that follows `failures`."""
        return min(self.backoff_s * 2.0 ** max(0, failures - 1), _LONGEST_WAIT_S)


class BatchScheduler:
    """Gangs at work on a batch.

    Args:
        takes: those to be done.
        stop: set from outside: no take starts any more, and those that run end at their next chunk.
    """

    def __init__(self, takes: tuple[TakeSpec, ...], ledger: Ledger, retries: Retries, stop: Event) -> None:
        self._queue, self._ledger, self._retries, self._stop = TakeQueue(takes), ledger, retries, stop
        self._lock = Lock()
        self._refusals: dict[int | None, list[str]] = defaultdict(list)
        self._error: BaseException | None = None

    def run(self, open_session: Callable[[], RenderSession], num_gangs: int, tick: Callable[[], None]) -> None:
        """Render until every take has ended, or `stop`; `beat` is called a few times a second. Raises what ended it."""
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

    def _gang(self, open_session: Callable[[], RenderSession]) -> None:
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
        """The next take, once there is one; None when there will be none.

        A take that runs elsewhere is nothing to wait for: should it fail, its own gang is there to try it again.
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

    def _try(self, session: RenderSession, take: TakeSpec) -> Record:
        """One attempt: the take's record after it."""
        record, started = self._ledger[take.id], monotonic()
        if self._is_hopeless(take):
            return record.left("failed", 0, self._refusals[take.ranks][-1])
        self._ledger.put(record.running())
        try:
            self._make_ready(session, take)
            rendered = session.render(self._tick)
        except Stopped:
            return record.left("pending", monotonic() - started)
        except _Refused as refused:
            return record.left("failed", monotonic() - started, str(refused))
        except SpecError as error:
            return record.failed(_cause(error), monotonic() - started, retries=0)
        except Exception as error:  # noqa: BLE001  one broken take never stops the batch, whatever breaks it
            return record.failed(_cause(error), monotonic() - started, retries=self._retries.most)
        seconds = monotonic() - started
        return record.done(seconds, None if rendered.work_s is None else max(0.0, seconds - rendered.work_s))

    def _make_ready(self, session: RenderSession, take: TakeSpec) -> None:
        try:
            session.ready(take)
        except (ActorLost, CapacityError) as error:
            with self._lock:
                self._refusals[take.ranks].append(_cause(error))
            raise _Refused(_cause(error)) from error
        with self._lock:
            self._refusals[take.ranks].clear()

    def _is_hopeless(self, take: TakeSpec) -> bool:
        """Whether the cluster has shown that it has no room for actors as `take` asks for; no take is to blame."""
        return len(self._refusals[take.ranks]) >= MOST_REFUSALS

    def _tick(self) -> None:
        if self._stop.is_set():
            raise Stopped


class _Refused(Exception):  # noqa: N818 (it ends no take)
    """The actors that a take asks for did not start."""


def _cause(error: Exception) -> str:
    """What happened, in the words of the error; one that nobody raised on purpose is named too."""
    return str(error) if isinstance(error, LongtakeError) else f"{type(error).__name__}: {error}"
