"""Supervision: whoever dies, wedges or raises is replaced, and the take goes on where the journal ends.

The journal is the only truth, so there is nothing to rescue: what was in flight is let go of, and the road is driven
again from the first chunk that the film lacks. Finished latents and segments are found in the journal; whoever has
survived keeps its state, and whoever is new stands where an undisturbed run stands. At most the chunk that a dead actor
was at is done twice.
"""

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

from ray.exceptions import RayError

from longtake.actors.pacer import ChunkPacer
from longtake.actors.pool import ActorPool
from longtake.pipeline.errors import ActorLost, LongtakeError, PoisonError

Result = TypeVar("Result")

DEATHS = 3
"""Failures in a row at one chunk that end a take."""


def supervised(pool: ActorPool, pacer: ChunkPacer, drive: Callable[[], Result]) -> Result:
    """What `drive` returns; it is called again after every failure that another try may mend.

    Args:
        company: at work on a take.
        conductor: whom `drive` uses, so that time is kept while it waits.

    Raises:
        PoisonError: the same chunk failed `DEATHS` times in a row.
        LongtakeError: what no further try can mend.
    """
    failures, chunk = 0, -1
    vigil = Watchdog(pool, pacer)
    with pacer.ticking(vigil.look):
        while True:
            try:
                if failures:
                    vigil.mend()
                return drive()
            except Exception as error:  # whatever an act raises, a new one may not
                cause = getattr(error, "cause", error)
                if isinstance(cause, LongtakeError) and not isinstance(cause, ActorLost):
                    raise cause from None
                failures = failures + 1 if chunk == pacer.next_chunk else 1
                chunk = pacer.next_chunk
                reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}"
                pool.event("take.fault", at_chunk=chunk, failures=failures, reason=reason)
                if failures == DEATHS:
                    raise PoisonError(
                        f"chunk {chunk} failed {DEATHS} times in a row, the last time with {reason}; what is finished"
                        " is kept, the same command goes on there"
                    ) from error
                sleep(pool.config.timeouts.back_off_after(failures))


class Watchdog:
    """Keeps watch over a company while its conductor waits."""

    def __init__(self, pool: ActorPool, pacer: ChunkPacer) -> None:
        self._pool, self._pacer = pool, pacer
        self._chunk, self._since = -1, monotonic()
        self._lost: dict[str, str] = {}

    def look(self) -> None:
        """Raise `ActorLost` if somebody is gone, wedged or about to go."""
        if self._chunk != self._pacer.next_chunk:
            self._chunk, self._since = self._pacer.next_chunk, monotonic()
            self._pool.meter(self._pacer.bytes_in_flight)
        overdue = monotonic() - self._since > self._pool.deadline_s
        if overdue:
            self._since = monotonic()
        self._lost = self._pool.lost(overdue=overdue)
        if self._lost:
            raise ActorLost("; ".join(f"{act} {reason}" for act, reason in self._lost.items()))

    def mend(self) -> None:
        """Fill the posts of whoever is lost, let the others finish what they are at, and stand ready to go on."""
        until = monotonic() + self._pool.config.timeouts.start
        while True:
            self._since = monotonic()
            lost, self._lost = self._lost, {}
            try:
                self._pool.replace(lost or self._pool.lost(overdue=True))
                self._pacer.wait(self._pool.idle())
                self._pool.reopen()
            except (RayError, ActorLost):
                if monotonic() > until:
                    raise
            else:
                return
