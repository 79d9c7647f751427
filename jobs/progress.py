"""Progress of a command: bars in a terminal, otherwise a line every ten seconds, or one JSON object a line.

A `Progress` is entered before a command imports PyTorch or starts Ray, so that something is seen within a second. A
thread of its own shows how long the present phase takes, since such phases block.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event, RLock, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

from rich import progress
from rich.console import Console
from typing_extensions import override

from longtake.jobs.feedback import Feedback, print_json
from longtake.jobs.pace import span

LINE_S = 10.0
FIRST_S = 1.0
"""A phase that lasts longer than this is shown."""
_TICK_S = 0.2


@dataclass
class State:
    """How far a command is.

    Args:
        phase: what it does, such as "starting Ray".
        since: when the phase began, by the monotonic clock.
        unit: what is counted; "" in a phase without a count.
        kept: how many of `done` an earlier run finished.
        speed: speeds in words.
        left_s: seconds until the work is done, as estimated at `updated`.
        stages: done and total of each stage, and its speed in words.
        fields: further values for JSON.
    """

    phase: str
    since: float
    unit: str = ""
    done: int = 0
    total: int = 0
    kept: int = 0
    speed: str = ""
    left_s: float | None = None
    updated: float = 0.0
    stages: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    fields: dict[str, float | None] = field(default_factory=dict)

    def eta_s(self, now: float) -> float | None:
        """Seconds until the work is done, counted from `now`."""
        return None if self.left_s is None else max(0.0, self.left_s - (now - self.updated))

    def line(self, now: float) -> str:
        """The state as one line of text."""
        if not self.unit:
            return f"{self.phase}, {span(now - self.since)}"
        parts = [f"{self.phase}: {self.done} of {self.total} {self.unit}"]
        if self.kept:
            parts[0] += f" ({self.kept} were finished before)"
        if self.speed:
            parts.append(self.speed)
        left_s = self.eta_s(now)
        parts.append(span(now - self.since) if left_s is None else f"about {span(left_s)} left")
        return ", ".join(parts)


class View(Protocol):
    """Shows a state; called with the lock of its `Progress` held."""

    def look(self, state: State, now: float, *, changed: bool) -> None:
        """Show the state if it is time to. `changed`: the phase or the count is new."""
        ...

    def say(self, text: str, now: float) -> None:
        """Print a line that stays."""
        ...

    def stop(self) -> None:
        """Leave the terminal as it was."""
        ...


class Nothing(View):
    """Shows no progress."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @override
    def look(self, state: State, now: float, *, changed: bool) -> None:
        pass

    @override
    def say(self, text: str, now: float) -> None:
        self._console.print(text)

    @override
    def stop(self) -> None:
        pass


class Plain(Nothing):
    """Prints a line for each phase that takes a second, and every ten seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._printed, self._phase = 0.0, ""

    @override
    def look(self, state: State, now: float, *, changed: bool) -> None:
        is_new = state.phase != self._phase and now - state.since >= FIRST_S
        if is_new or (self._phase and now - self._printed >= LINE_S):
            self._printed, self._phase = now, state.phase
            self.say(state.line(now), now)


class Json(Nothing):
    """Prints an object for each change, and every ten seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._printed, self._started = 0.0, monotonic()

    @override
    def look(self, state: State, now: float, *, changed: bool) -> None:
        if not changed and now - self._printed < LINE_S:
            return
        self._printed = now
        fields: dict[str, Any] = {"phase": state.phase}
        if state.unit:
            fields |= {"unit": state.unit, "done": state.done, "total": state.total, "kept": state.kept}
            fields |= {"eta_s": _rounded(state.eta_s(now)), **state.fields}
        print_json({**fields, "phase_s": _rounded(now - state.since), "elapsed_s": _rounded(now - self._started)})

    @override
    def say(self, text: str, now: float) -> None:
        print_json({"message": text, "elapsed_s": _rounded(now - self._started)})


class Bars(View):
    """Draws a spinner during a phase without a count, and otherwise a bar for each stage and one for the whole."""

    def __init__(self, console: Console) -> None:
        self._bars = progress.Progress(
            progress.SpinnerColumn(finished_text=" "),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._phase = progress.Progress(
            progress.SpinnerColumn(), progress.TextColumn("{task.description}", markup=False), console=console,
            transient=True,
        )  # fmt: skip
        self._shown: progress.Progress | None = None
        self._tasks: dict[str, progress.TaskID] = {}
        self._of: float | None = None

    @override
    def look(self, state: State, now: float, *, changed: bool) -> None:
        if self._of != state.since:  # a new phase
            self._of = state.since
            self._tasks.clear()
        if state.unit:
            self._show(self._bars)
            for name, (done, total, note) in {**state.stages, state.phase: self._whole(state, now)}.items():
                if name not in self._tasks:
                    self._tasks[name] = self._bars.add_task(name, total=total, note="")
                self._bars.update(self._tasks[name], completed=done, total=total, note=note)
        elif now - state.since >= FIRST_S / 2 or self._shown is self._phase:
            self._show(self._phase)
            if not self._tasks:
                for task in self._phase.task_ids:
                    self._phase.remove_task(task)
                self._tasks[""] = self._phase.add_task("", total=None)
            self._phase.update(self._tasks[""], description=state.line(now))

    @override
    def say(self, text: str, now: float) -> None:
        self._bars.console.print(text)

    @override
    def stop(self) -> None:
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    def _show(self, bars: progress.Progress) -> None:
        if self._shown is not bars:
            self.stop()
            bars.start()
            self._shown = bars

    def _whole(self, state: State, now: float) -> tuple[int, int, str]:
        left_s = state.eta_s(now)
        notes = (state.speed, "" if left_s is None or state.done == state.total else f"about {span(left_s)} left")
        return state.done, state.total, ", ".join(note for note in notes if note)


VIEWS: Mapping[str, Callable[[Console], View]] = {"bars": Bars, "plain": Plain, "json": Json, "none": Nothing}


class Progress:
    """Shows how far a command is; `with Progress(feedback, "loading PyTorch") as progress`."""

    def __init__(self, feedback: Feedback, doing: str) -> None:
        self.feedback = feedback
        self._state = State(doing, monotonic())
        self._view: View = VIEWS[feedback.mode](feedback.console)
        self._lock, self._over = RLock(), Event()

    @classmethod
    def silent(cls) -> Self:
        """A progress that prints nothing."""
        return cls(Feedback(quiet=True), "")

    def __enter__(self) -> Self:
        self.feedback.set_log_levels()
        self._thread = Thread(target=self._watch, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Show nothing more; the last counts stay."""
        self._over.set()
        self._thread.join()
        with self._lock:
            self._view.stop()

    def phase(self, doing: str) -> None:
        """From now on the command is `doing` something whose length is unknown."""
        with self._lock:
            if doing != self._state.phase:
                self._state = State(doing, monotonic())
                self._look(changed=True)

    def count(self, doing: str, unit: str, total: int, kept: int = 0) -> None:
        """From now on the command is `doing` something that is counted.

        Args:
            kept: how many were finished before.
        """
        with self._lock:
            self._state = State(doing, monotonic(), unit, kept, total, kept)
            self._look(changed=True)

    def update(self, done: int, *, speed: str = "", left_s: float | None = None, **fields: float | None) -> None:
        """`done` are finished; `fields` are further values for JSON."""
        with self._lock:
            changed = done != self._state.done
            self._state.done, self._state.speed, self._state.fields = done, speed, fields
            self._state.left_s, self._state.updated = left_s, monotonic()
            self._look(changed=changed)

    def stage(self, name: str, done: int, total: int, note: str) -> None:
        """A stage has finished `done` of `total`; only bars show it."""
        with self._lock:
            self._state.stages[name] = (done, total, note)
            self._look(changed=False)

    def say(self, text: str) -> None:
        """Print a line that stays; nothing with `-q`."""
        with self._lock:
            self._view.say(text, monotonic())

    def _watch(self) -> None:
        while not self._over.wait(_TICK_S):
            with self._lock:
                self._look(changed=False)

    def _look(self, *, changed: bool) -> None:
        self._view.look(self._state, monotonic(), changed=changed)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
