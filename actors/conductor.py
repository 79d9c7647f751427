"""The conductor: starts chunks in order, and no more of them than fit the budget of bytes in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import ray
from ray import ObjectRef

from pipeline.clock import ChunkSpan

BEAT_S = 0.25


@dataclass(frozen=True)
class _Flight:
    chunk: ChunkSpan
    landed: ObjectRef
    num_bytes: int


class Conductor:
    """Chunks in flight: started in order, and over once they are published.

    Args:
        budget_bytes: a chunk starts only while those in flight stay below this with it; one always may.
        bytes_of: what a chunk weighs on its way, at most.
        beat: called a few times a second while the conductor waits.
    """

    def __init__(
        self, budget_bytes: int, bytes_of: Callable[[ChunkSpan], int], beat: Callable[[], None] = lambda: None
    ) -> None:
        self._budget_bytes, self._bytes_of, self._beat = budget_bytes, bytes_of, beat
        self._flights: deque[_Flight] = deque()

    @property
    def bytes_in_flight(self) -> int:
        """What the chunks in flight weigh."""
        return sum(flight.num_bytes for flight in self._flights)

    def paced(self, chunks: Iterable[ChunkSpan]) -> Iterator[ChunkSpan]:
        """The chunks, each as soon as there is room for it; when they have run out, waits for the last to land."""
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

    def _land_oldest(self) -> None:
        oldest = self._flights[0].landed
        while not ray.wait([oldest], timeout=BEAT_S)[0]:
            self._beat()
        self._flights.popleft()
        ray.get(oldest)
        self._beat()
