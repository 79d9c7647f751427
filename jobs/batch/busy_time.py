"""The time in which stages worked on a take; the rest of its time is overhead."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from typing_extensions import override

from longtake.pipeline.observe import Observer


class BusyTime(Observer):
    """An observer that adds up the time in which stages worked on chunks."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    @override
    def event(self, name: str, **fields: Any) -> None:
        if name.endswith(".chunk"):  # its `time` is when the stage finished
            stop = datetime.fromisoformat(fields["time"]).timestamp()
            self._spans.append((stop - fields["seconds"], stop))

    @property
    def seconds(self) -> float:
        """Seconds in which at least one stage was working."""
        return covered(self._spans)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of `spans`."""
    length, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        length += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return length
