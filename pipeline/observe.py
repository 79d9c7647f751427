"""How the pipeline reports what it does: events with fields, sent to observers."""

from typing import Any, Protocol

from typing_extensions import override


class Observer(Protocol):
    """Receives each event of a render. Names look like `denoise.chunk`; fields are plain values."""

    def event(self, name: str, **fields: Any) -> None:
        """Receive one event."""
        ...


class Silent(Observer):
    """An observer that ignores all events."""

    @override
    def event(self, name: str, **fields: Any) -> None:
        pass


SILENT = Silent()


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    @override
    def event(self, name: str, **fields: Any) -> None:
        for observer in self.observers:
            observer.event(name, **fields)
