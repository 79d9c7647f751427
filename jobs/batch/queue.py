"""The order of the takes: higher priorities first; projects of equal priority round-robin."""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from longtake.jobs.batch.manifest import TakeSpec


@dataclass(order=True, frozen=True)
class _Delayed:
    ready_at: float
    number: int
    take: TakeSpec


class TakeQueue:
    """Takes that wait for a gang. Plain data: no clock, no threads.

    Within a project, takes keep their order with two exceptions: a gang preferably receives a take that needs as many
    ranks as its actors have, and a take that failed comes first once its waiting time is over.
    """

    def __init__(self, takes: Iterable[TakeSpec]) -> None:
        self._lines: dict[int, dict[str, deque[TakeSpec]]] = defaultdict(lambda: defaultdict(deque))
        self._delayed: list[_Delayed] = []
        self._last_served: dict[str, int] = {}
        self._number = count()
        for take in takes:
            self._lines[take.priority][take.project].append(take)

    def __len__(self) -> int:
        return len(self._delayed) + sum(len(line) for lines in self._lines.values() for line in lines.values())

    def take(self, now: float, ranks: int | None = None) -> TakeSpec | None:
        """The next take for a gang of `ranks`; None if none is ready."""
        while self._delayed and self._delayed[0].ready_at <= now:
            ready = heappop(self._delayed).take
            self._lines[ready.priority][ready.project].appendleft(ready)
        priority = max((priority for priority, lines in self._lines.items() if any(lines.values())), default=None)
        if priority is None:
            return None
        lines = self._lines[priority]
        waiting = [project for project, line in lines.items() if line]
        project = min(waiting, key=lambda project: self._last_served.get(project, -1))
        self._last_served[project] = next(self._number)
        line = lines[project]
        chosen = next((take for take in line if take.ranks == ranks), line[0])
        line.remove(chosen)
        return chosen

    def put_back(self, take: TakeSpec, ready_at: float) -> None:
        """Queue a take again, not to be taken before `ready_at`."""
        heappush(self._delayed, _Delayed(ready_at, next(self._number), take))
