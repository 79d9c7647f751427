"""Progress of a batch in the terminal: takes done, running and quarantined, takes per minute, time left."""

from time import monotonic
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console
from rich.markup import escape

from longtake.jobs.batch.ledger import ENDED, Ledger, Totals


class BatchProgress:
    """Draws a ledger as it changes: `with BatchProgress(ledger, num_gangs, console) as progress: progress.tick()`."""

    def __init__(self, ledger: Ledger, num_gangs: int, console: Console) -> None:
        self._ledger, self._num_gangs, self._console = ledger, num_gangs, console
        self._before = Totals.of(ledger.records)
        self._announced = {record.id for record in ledger.records if record.state == "quarantined"}
        self._bar = progress.Progress(
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.description}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=len(ledger.records))

    def __enter__(self) -> Self:
        self._started = monotonic()
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.tick()
        self._bar.stop()

    def tick(self) -> None:
        """Redraw, and print the cause of each newly quarantined take."""
        records = self._ledger.records
        for record in records:
            if record.state == "quarantined" and record.id not in self._announced:
                self._announced.add(record.id)
                self._console.print(f"[red]{escape(record.id)} is quarantined:[/] {escape(record.cause)}")
        now = Totals.of(records)
        ended = sum(now.states.get(state, 0) for state in ENDED)
        elapsed_s = monotonic() - self._started
        self._bar.update(self._task, completed=ended, description=self._line(now, elapsed_s))

    def _line(self, now: Totals, elapsed_s: float) -> str:
        parts = [
            f"{now.states[state]} {state}"
            for state in ("done", "running", "failed", "quarantined")
            if now.states.get(state)
        ]
        finished = now.states.get("done", 0) - self._before.states.get("done", 0)
        if finished:
            parts.append(f"{60 * finished / max(elapsed_s, 1e-3):.3g} takes/min")
        left_s = eta_s(self._before, now, self._num_gangs)
        if left_s:
            parts.append(f"about {span(left_s)} left")
        return ", ".join(parts)


def eta_s(before: Totals, now: Totals, num_gangs: int) -> float | None:
    """Seconds until all takes have ended, from the cost of a second of film since `before`; None before the first."""
    film_s = now.film_s - before.film_s
    if film_s <= 0:
        return None
    return (now.spent_s - before.spent_s) / film_s * now.left_film_s / num_gangs


def span(seconds: float) -> str:
    """A span of time in words: `12 s`, `3 min`, `2 h 05 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
