"""The pacer starts chunks in order, and only while the bytes of all chunks in flight stay within a budget."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from longtake.actors.handles import Ref
from longtake.actors.policy import TICK_S
from longtake.pipeline.clock import ChunkSpan


@dataclass(frozen=True)
class _Flight:
    """A chunk that was started, and the reference that is ready once it is published."""

    chunk: ChunkSpan
    landed: Ref
    num_bytes: int


class ChunkPacer:
    """Chunks in flight: started in order, landed once they are published.

    Args:
        budget_bytes: a chunk starts only if it fits next to those in flight; with none in flight it always starts.
        bytes_of: the most bytes that a chunk takes while it is in flight.
        tick: called a few times a second while the pacer waits.
    """

    def __init__(
        self, budget_bytes: int, bytes_of: Callable[[ChunkSpan], int], tick: Callable[[], None] = lambda: None
    ) -> None:
        self._budget_bytes, self._bytes_of, self._ticks = budget_bytes, bytes_of, [tick]
        self._flights: deque[_Flight] = deque()
        self.next_chunk = 0

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of all chunks in flight."""
        return sum(flight.num_bytes for flight in self._flights)

    def paced(self, chunks: Iterable[ChunkSpan]) -> Iterator[ChunkSpan]:
        """Each of the chunks as soon as it fits the budget; after the last one, waits until all have landed."""
        self._flights.clear()
        for chunk in chunks:
            while self._flights and self.bytes_in_flight + self._bytes_of(chunk) > self._budget_bytes:
                self._land_oldest()
            yield chunk
        self.drain()

    def follow(self, chunk: ChunkSpan, landed: Ref) -> None:
        """Count `chunk` as in flight until `landed` is ready."""
        self._flights.append(_Flight(chunk, landed, self._bytes_of(chunk)))

    def drain(self) -> None:
        """Wait until no chunk is in flight. Raises what a stage raised."""
        while self._flights:
            self._land_oldest()

    def wait(self, refs: Sequence[Ref]) -> None:
        """Wait, ticking, until all of `refs` are ready or have failed."""
        while len(ray.wait(list(refs), num_returns=len(refs), timeout=TICK_S)[0]) < len(refs):
            self._tick()

    def result(self, ref: Ref) -> Any:
        """The value of `ref`; ticks while it waits."""
        self.wait([ref])
        return ray.get(ref)

    @contextmanager
    def ticking(self, tick: Callable[[], None]) -> Iterator[None]:
        """Call `tick` too while the block runs."""
        self._ticks.append(tick)
        try:
            yield
        finally:
            self._ticks.remove(tick)

    def _land_oldest(self) -> None:
        oldest = self._flights[0]
        self.next_chunk = oldest.chunk.index
        self.wait([oldest.landed])
        self._flights.popleft()
        ray.get(oldest.landed)
        self.next_chunk += 1
        self._tick()

    def _tick(self) -> None:
        for tick in self._ticks:
            tick()
