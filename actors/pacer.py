"""The conductor: starts chunks in order, and no more of them than fit the budget of bytes in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef

from longtake.pipeline.clock import ChunkSpan

TICK_S = 0.25


@dataclass(frozen=True)
class _Flight:
    chunk: ChunkSpan
    landed: ObjectRef
    num_bytes: int


class ChunkPacer:
    """Chunks in flight: started in order, and over once they are published.

    Args:
        budget_bytes: a chunk starts only while those in flight stay below this with it; one always may.
        bytes_of: what a chunk weighs on its way, at most.
        beat: called a few times a second while the conductor waits.
    """

    def __init__(
        self, budget_bytes: int, bytes_of: Callable[[ChunkSpan], int], tick: Callable[[], None] = lambda: None
    ) -> None:
        self._budget_bytes, self._bytes_of, self._ticks = budget_bytes, bytes_of, [tick]
        self._flights: deque[_Flight] = deque()
        self.next_chunk = 0

    @property
    def bytes_in_flight(self) -> int:
        """What the chunks in flight weigh."""
        return sum(flight.num_bytes for flight in self._flights)

    def paced(self, chunks: Iterable[ChunkSpan]) -> Iterator[ChunkSpan]:
        """The chunks, each as soon as there is room for it; when they have run out, waits for the last to land."""
        self._flights.clear()
        for chunk in chunks:
            while self._flights and self.bytes_in_flight + self._bytes_of(chunk) > self._budget_bytes:
                self._land_oldest()
            yield chunk
        self.drain()

    def follow(self, chunk: ChunkSpan, landed: ObjectRef) -> None:
        """Count `chunk` as in flight until `landed` is there."""
        self._flights.append(_Flight(chunk, landed, self._bytes_of(chunk)))

    def drain(self) -> None:
        """Wait until nothing is in flight. Raises what an act raised."""
        while self._flights:
            self._land_oldest()

    def wait(self, refs: Sequence[ObjectRef]) -> None:
        """Wait, in time, until all of `refs` are there or have failed."""
        while len(ray.wait(refs, num_returns=len(refs), timeout=TICK_S)[0]) < len(refs):
            self._tick()

    def result(self, ref: ObjectRef) -> Any:
        """What `ref` stands for, waited for in time."""
        self.wait([ref])
        return ray.get(ref)

    @contextmanager
    def ticking(self, tick: Callable[[], None]) -> Iterator[None]:
        """Call `beat` too, while the block runs."""
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
