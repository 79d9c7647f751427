"""`journal/cancel.json`: a request to the owner of an output root to stop cleanly, from any machine.

It names the owner that it is meant for, so that an old request never stops a new render.
"""

from time import monotonic
from typing import Any

from pydantic import BaseModel, ValidationError
from typing_extensions import override

from longtake.pipeline.errors import Cancelled
from longtake.pipeline.journal.owner import OwnerCard
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import owner_of
from longtake.pipeline.observe import Observer

NAME = "journal/cancel.json"
LOOK_S = 1.0


class Request(BaseModel):
    """The owner that must stop."""

    token: str


def request_cancel(store: Store) -> OwnerCard | None:
    """Ask the owner of `store` to stop. Returns its card, or None if there is no owner."""
    owner = owner_of(store)
    if owner is not None:
        store.put(NAME, Request(token=owner.token).model_dump_json().encode())
    return owner


def cancelled(store: Store) -> bool:
    """Whether the present owner of `store` was asked to stop; False if the store cannot be read. Cheap enough for
    once a second."""
    try:
        request = Request.model_validate_json(store.get(NAME))
        owner = owner_of(store)
    except (OSError, ValidationError):
        return False
    return owner is not None and owner.token == request.token


class CancelWatch(Observer):
    """Looks for a request at most once a second. Also an observer, which looks at every event.

    Raises:
        Cancelled: there is one.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._next_s = store, 0.0

    def look(self) -> None:
        """Look, unless that was done less than a second ago."""
        if monotonic() < self._next_s:
            return
        self._next_s = monotonic() + LOOK_S
        if cancelled(self._store):
            raise Cancelled("stopped by longtake cancel; finished work is kept, run the same command to resume")

    @override
    def event(self, name: str, **fields: Any) -> None:
        self.look()
