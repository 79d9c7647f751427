"""Progress of a batch: takes done, running and quarantined, takes per minute, time left."""

from time import monotonic
from types import TracebackType
from typing import Self

from longtake.jobs.batch.ledger import ENDED, Ledger, Totals
from longtake.jobs.progress import Progress


class BatchProgress:
    """Shows a ledger as it changes: `with BatchProgress(ledger, num_gangs, progress) as shown: shown.tick()`."""

    def __init__(self, ledger: Ledger, num_gangs: int, progress: Progress) -> None:
        self._ledger, self._num_gangs, self._progress = ledger, num_gangs, progress
        self._before = Totals.of(ledger.records)
        self._announced = {record.id for record in ledger.records if record.state == "quarantined"}

    def __enter__(self) -> Self:
        self._started = monotonic()
        self._progress.count("rendering", "takes", len(self._ledger.records), self._num_ended(self._before))
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.tick()

    def tick(self) -> None:
        """Show the ledger, and print the cause of each newly quarantined take."""
        records = self._ledger.records
        for record in records:
            if record.state == "quarantined" and record.id not in self._announced:
                self._announced.add(record.id)
                self._progress.say(f"{record.id} is quarantined: {record.cause}")
        now = Totals.of(records)
        left_s = eta_s(self._before, now, self._num_gangs)
        self._progress.update(self._num_ended(now), speed=self._line(now, monotonic() - self._started), left_s=left_s)

    def _num_ended(self, totals: Totals) -> int:
        return sum(totals.states.get(state, 0) for state in ENDED)

    def _line(self, now: Totals, elapsed_s: float) -> str:
        parts = [
            f"{now.states[state]} {state}"
            for state in ("done", "running", "failed", "quarantined")
            if now.states.get(state)
        ]
        finished = now.states.get("done", 0) - self._before.states.get("done", 0)
        if finished:
            parts.append(f"{60 * finished / max(elapsed_s, 1e-3):.3g} takes/min")
        return ", ".join(parts)


def eta_s(before: Totals, now: Totals, num_gangs: int) -> float | None:
    """Seconds until all takes have ended, from the cost of a second of film since `before`; None before the first."""
    film_s = now.film_s - before.film_s
    if film_s <= 0:
        return None
    return (now.spent_s - before.spent_s) / film_s * now.left_film_s / num_gangs
