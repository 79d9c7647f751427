"""Speed and time left of work that is done piece by piece."""

from collections import deque

_RECENT = 32


class Pace:
    """Speed of the latest pieces of work.

    The first piece only starts the clock, because it also pays for the start: processes, weights, first calls.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=_RECENT + 1)  # (seconds, work finished by then)
        self._done = 0.0

    def add(self, at_s: float, work: float = 1.0) -> None:
        """A piece of `work` was finished at `at_s`, in seconds of any steady clock."""
        self._done += work
        self._points.append((at_s, self._done))

    @property
    def per_s(self) -> float | None:
        """Work per second; None before the second piece."""
        if len(self._points) < 2:
            return None
        (start_s, before), (stop_s, done) = self._points[0], self._points[-1]
        return (done - before) / max(stop_s - start_s, 1e-6)

    def left_s(self, work: float) -> float | None:
        """Seconds that `work` takes at this speed; None before the second piece."""
        return None if self.per_s is None else work / self.per_s


def span(seconds: float) -> str:
    """A span of time in words: `12 s`, `3 min`, `2 h 05 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
