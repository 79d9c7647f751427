"""How the road tells what it does: events with fields, to whoever listens."""

from typing import Any, Protocol


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
