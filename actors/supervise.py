"""Supervision: actors that die, hang or raise are replaced, and the take resumes from where its journal ends.

The journal is the only truth, so no state has to be saved: chunks in flight are dropped, and the film is rendered again
from the first chunk that it lacks. Finished latents and segments are found in the journal. Actors that survived keep
their state; new ones build the state of an undisturbed run. At most the chunk that a dead actor worked on is repeated.
"""

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

from ray.exceptions import RayError

from longtake.actors.failures import StartAttempts, cause_of, described, is_final
from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.pipeline.errors import ActorLost, PoisonError

Result = TypeVar("Result")


def supervised(pool: ActorPool, pacer: ChunkPacer, drive: Callable[[], Result]) -> Result:
    """What `drive` returns; it is called again after every failure that another try may fix.

    Args:
        pool: open for a take.
        pacer: the one that `drive` uses; the pool is watched while it waits.

    Raises:
        PoisonError: the same chunk failed too often in a row, see `PoolConfig.retries`.
        LongtakeError: another try would fail too.
    """
    failures, chunk, retries = 0, -1, pool.config.retries
    watchdog = Watchdog(pool, pacer)
    with pacer.ticking(watchdog.look):
        while True:
            try:
                if failures:
                    watchdog.recover()
                return drive()
            except Exception as error:  # a new actor may not raise what this one did
                if is_final(error):
                    raise cause_of(error) from None
                failures = failures + 1 if chunk == pacer.next_chunk else 1
                chunk, reason = pacer.next_chunk, described(error)
                pool.event("take.fault", at_chunk=chunk, failures=failures, reason=reason)
                if retries.gives_up(failures):
                    raise PoisonError(
                        f"chunk {chunk} failed {failures} times in a row, the last time with {reason}; what is"
                        " finished is kept, and the same command resumes from there"
                    ) from error
                sleep(retries.wait_s(failures))


class Watchdog:
    """Watches the actors of a pool while the pacer waits."""

    def __init__(self, pool: ActorPool, pacer: ChunkPacer) -> None:
        self._pool, self._pacer = pool, pacer
        self._chunk, self._since = -1, monotonic()
        self._lost: dict[str, str] = {}

    def look(self) -> None:
        """Raise `ActorLost` if an actor is dead, hung or on a node that is being drained."""
        if self._chunk != self._pacer.next_chunk:
            self._chunk, self._since = self._pacer.next_chunk, monotonic()
            self._pool.meter(self._pacer.bytes_in_flight)
        overdue = monotonic() - self._since > self._pool.deadline_s
        if overdue:
            self._since = monotonic()
        self._lost = self._pool.lost(overdue=overdue)
        if self._lost:
            raise ActorLost("; ".join(f"{group} {reason}" for group, reason in self._lost.items()))

    def recover(self) -> None:
        """Replace lost actors, let the others finish their calls, and build stages where they are missing."""
        attempts = StartAttempts(self._pool.config.timeouts.start, self._pool.config.retries)
        while True:
            self._since = monotonic()
            lost, self._lost = self._lost, {}
            try:
                self._pool.replace(lost or self._pool.lost(overdue=True))
                self._pacer.wait(self._pool.idle())
                self._pool.reopen()
            except (RayError, ActorLost) as error:
                attempts.failed(error)
            else:
                return
