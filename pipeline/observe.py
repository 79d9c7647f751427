"""How the road tells what it does: events with fields, to whoever listens."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Protocol

from pipeline.clock import ChunkSpan


class Observer(Protocol):
    """Hears every event of a render; the name is `room.what`, fields are plain values."""

    def event(self, name: str, **fields: Any) -> None:
        """Something happened."""
        ...


class Silent:
    """An observer that listens to nothing."""

    def event(self, name: str, **fields: Any) -> None:
        """See `Observer.event`."""


SILENT = Silent()


class Observers:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def event(self, name: str, **fields: Any) -> None:
        """See `Observer.event`."""
        for observer in self.observers:
            observer.event(name, **fields)


@contextmanager
def act(observer: Observer, name: str, chunk: ChunkSpan) -> Iterator[None]:
    """Time one act on one chunk: `name.chunk` with the chunk, its scene and the seconds it took, once it is done."""
    started = perf_counter()
    yield
    observer.event(f"{name}.chunk", chunk=chunk.index, scene=chunk.scene, seconds=perf_counter() - started)
