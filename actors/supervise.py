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

from actors.company import Company
from actors.conductor import Conductor
from pipeline.errors import ActorLost, LongtakeError, PoisonError

Result = TypeVar("Result")

DEATHS = 3
"""Failures in a row at one chunk that end a take."""


def supervised(company: Company, conductor: Conductor, drive: Callable[[], Result]) -> Result:
    """What `drive` returns; it is called again after every failure that another try may mend.

    Args:
        company: at work on a take.
        conductor: whom `drive` uses, so that time is kept while it waits.

    Raises:
        PoisonError: the same chunk failed `DEATHS` times in a row.
        LongtakeError: what no further try can mend.
    """
    failures, chunk = 0, -1
    vigil = Vigil(company, conductor)
    with conductor.beating(vigil.look):
        while True:
            try:
                if failures:
                    vigil.mend()
                return drive()
            except Exception as error:  # whatever an act raises, a new one may not
                cause = getattr(error, "cause", error)
                if isinstance(cause, LongtakeError) and not isinstance(cause, ActorLost):
                    raise cause from None
                failures = failures + 1 if chunk == conductor.next_chunk else 1
                chunk = conductor.next_chunk
                reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}"
                company.event("take.fault", at_chunk=chunk, failures=failures, reason=reason)
                if failures == DEATHS:
                    raise PoisonError(
                        f"chunk {chunk} failed {DEATHS} times in a row, the last time with {reason}; what is finished"
                        " is kept, the same command goes on there"
                    ) from error
                sleep(company.crew.patience.back_off_after(failures))


class Vigil:
    """Keeps watch over a company while its conductor waits."""

    def __init__(self, company: Company, conductor: Conductor) -> None:
        self._company, self._conductor = company, conductor
        self._chunk, self._since = -1, monotonic()
        self._lost: dict[str, str] = {}

    def look(self) -> None:
        """Raise `ActorLost` if somebody is gone, wedged or about to go."""
        if self._chunk != self._conductor.next_chunk:
            self._chunk, self._since = self._conductor.next_chunk, monotonic()
            self._company.meter(self._conductor.bytes_in_flight)
        overdue = monotonic() - self._since > self._company.deadline_s
        if overdue:
            self._since = monotonic()
        self._lost = self._company.lost(overdue=overdue)
        if self._lost:
            raise ActorLost("; ".join(f"{act} {reason}" for act, reason in self._lost.items()))

    def mend(self) -> None:
        """Fill the posts of whoever is lost, let the others finish what they are at, and stand ready to go on."""
        until = monotonic() + self._company.crew.patience.start
        while True:
            self._since = monotonic()
            lost, self._lost = self._lost, {}
            try:
                self._company.replace(lost or self._company.lost(overdue=True))
                self._conductor.wait(self._company.idle())
                self._company.reopen()
            except (RayError, ActorLost):
                if monotonic() > until:
                    raise
            else:
                return
