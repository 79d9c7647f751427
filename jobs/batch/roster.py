"""`batch/roster.json`: the takes of a batch as its last run found them, for programs that do not have its manifest."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ValidationError

from longtake.jobs.batch.ledger import Record, name_of
from longtake.jobs.batch.manifest import LEDGER
from longtake.pipeline.journal.store import Store

NAME = "roster.json"
_READERS = 16


class _Roster(BaseModel):
    takes: tuple[Record, ...]


def put_roster(store: Store, records: Sequence[Record]) -> None:
    """Write the roster into the folder of a batch."""
    store.put(NAME, _Roster(takes=tuple(records)).model_dump_json(by_alias=True).encode())


def batch_folder(root: Store) -> Store | None:
    """The folder of the batch in an output root; None if it holds none."""
    store = Store(root.url_of(LEDGER))
    return store if store.exists(NAME) or store.exists("takes") else None


def read_records(store: Store) -> tuple[Record, ...]:
    """The records of a batch at this moment, from its folder."""
    try:
        known = {record.id: record for record in _Roster.model_validate_json(store.get(NAME)).takes}
    except (FileNotFoundError, ValidationError):  # an older version wrote none
        known = {}
    names = [name_of(take) for take in known] or list(store.list("takes"))
    with ThreadPoolExecutor(_READERS) as readers:
        found = [record for record in readers.map(lambda name: _read(store, name), names) if record is not None]
    changed = {
        record.id: record
        for record in found
        if record.id not in known or record.fingerprint == known[record.id].fingerprint
    }
    return tuple({**known, **changed}.values())


def _read(store: Store, name: str) -> Record | None:
    try:
        return Record.model_validate_json(store.get(name))
    except (FileNotFoundError, ValidationError):
        return None
