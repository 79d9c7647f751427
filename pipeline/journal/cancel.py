"""`journal/cancel.json`: a request to the owner of an output root to stop in order, from wherever the store is read.

It names the owner it is meant for, so that an old request never stops a new render.
"""

from time import monotonic
from typing import Any

from pydantic import BaseModel, ValidationError

from longtake.pipeline.errors import Cancelled
from longtake.pipeline.journal.owner import OwnerCard
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import owner_of

NAME = "journal/cancel.json"
LOOK_S = 1.0


class Request(BaseModel):
    """Who is to stop."""

    token: str


def request_cancel(store: Store) -> OwnerCard | None:
    """Ask the owner of `store` to stop; its card, or None where nobody renders."""
    owner = owner_of(store)
    if owner is not None:
        store.put(NAME, Request(token=owner.token).model_dump_json().encode())
    return owner


def cancelled(store: Store) -> bool:
    """Whether the present owner of `store` was asked to stop. Cheap enough to ask once a second; a store that cannot be
    read asks for nothing."""
    try:
        request = Request.model_validate_json(store.get(NAME))
        owner = owner_of(store)
    except (OSError, ValidationError):
        return False
    return owner is not None and owner.token == request.token


class CancelWatch:
    """Looks for a request about once a second, as often as it is asked; also an observer, which looks at every event.

    Raises:
        Cancelled: there is one.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._next_s = store, 0.0

    def look(self) -> None:
        """Look, if the last time was a second ago."""
        if monotonic() < self._next_s:
            return
        self._next_s = monotonic() + LOOK_S
        if cancelled(self._store):
            raise Cancelled(
                "stopped, as longtake cancel asked; what is finished is kept, the same command goes on there"
            )

    def event(self, name: str, **fields: Any) -> None:
        """See `longtake.pipeline.observe.Observer.event`."""
        self.look()
