"""How long any act was at work on a take: the rest of its time is overhead."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any


class Work:
    """An observer that adds up when acts were at work on chunks."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def event(self, name: str, **fields: Any) -> None:
        """See `longtake.pipeline.observe.Observer.event`; `time` is when the act had finished."""
        if name.endswith(".chunk"):
            stop = datetime.fromisoformat(fields["time"]).timestamp()
            self._spans.append((stop - fields["seconds"], stop))

    @property
    def seconds(self) -> float:
        """Seconds in which at least one act was at work."""
        return covered(self._spans)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of `spans`."""
    length, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        length += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return length
