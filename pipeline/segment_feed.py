"""Finished chunks as they are published, for a consumer in the process that renders or drives the render."""

from collections.abc import Callable
from typing import Any

from typing_extensions import override

from longtake.pipeline.errors import JournalError
from longtake.pipeline.observe import Observer
from longtake.pipeline.take import Take
from longtake.pipeline.values import Segment


class SegmentFeed(Observer):
    """An observer that passes on each chunk's segment, picture and sound, once and in order, when it is published.

    It reads segments from the journal, so chunks that an earlier render finished come first, and a publisher that is
    replaced or an event that is lost changes nothing.

    Args:
        receive: called with each segment. While it blocks, a render on Ray starts no further chunk.
    """

    def __init__(self, take: Take, receive: Callable[[Segment], None]) -> None:
        self._take, self._receive, self._next = take, receive, 0

    @override
    def event(self, name: str, **fields: Any) -> None:
        if name == "publish.chunk":
            self._pass_on(fields["chunk"] + 1)
        elif name == "film.done":
            self._pass_on(len(self._take.plan.chunks))

    def _pass_on(self, stop: int) -> None:
        for chunk in self._take.plan.chunks[self._next : stop]:
            segment = self._take.journal.segment(chunk)
            if segment is None:
                raise JournalError(
                    f"the segment of chunk {chunk.index} was damaged after it was published; render again"
                )
            self._next = chunk.index + 1
            self._receive(segment)
