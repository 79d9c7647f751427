"""The ledger of a batch: the state of every take, in one small file each; it alone decides what a later run renders.

    batch/takes/<id>.json       rewritten as a whole whenever the take's state changes

        pending ──> running ──> done
           ^           │──────> failed       retried later, or by the next run
           └───────────┤
         (stopped)     └──────> quarantined  skipped until --retry-quarantined, or until the take is edited

A run renders the takes in all states but `done` and `quarantined`; a run that was killed leaves `running` behind.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longtake.jobs.batch.identity import fingerprint
from longtake.jobs.batch.manifest import TakeSpec
from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.store import Store

State = Literal["pending", "running", "done", "failed", "quarantined"]
STATES: tuple[State, ...] = ("done", "running", "pending", "failed", "quarantined")
ENDED = frozenset({"done", "quarantined"})
_READERS = 16


class Record(BaseModel):
    """The state of one take.

    Args:
        fingerprint: of the take when it was tried, from `identity.fingerprint`; its name in files is `wish`.
        attempts: the number of failures, plus one if the take is done.
        cause: why it is not done.
        seconds: from its start in a gang to the finished film.
        overhead_s: the part of `seconds` in which no stage worked on a chunk.
        spent_s: gang time of all attempts, failed ones included.
        film_s: the length of the film in seconds.
        film: its name in `output`.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    id: str
    fingerprint: str = Field(alias="wish")
    state: State = "pending"
    attempts: int = 0
    cause: str = ""
    seconds: float | None = None
    overhead_s: float | None = None
    spent_s: float = 0.0
    film_s: float
    output: str
    film: str = "film.mp4"
    project: str = ""
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, take: TakeSpec) -> Self:
        """The record of a take that was never tried."""
        return cls(
            id=take.id,
            fingerprint=fingerprint(take),
            film_s=take.film_s,
            output=take.output,
            film=take.film,
            project=take.project,
            tags=take.tags,
        )

    def running(self) -> "Record":
        """The record while a gang renders the take."""
        return self.model_copy(update={"state": "running"})

    def done(self, seconds: float, overhead_s: float | None) -> "Record":
        """The record of a take whose film is finished."""
        return self.model_copy(
            update={
                "state": "done",
                "attempts": self.attempts + 1,
                "cause": "",
                "seconds": seconds,
                "overhead_s": overhead_s,
                "spent_s": self.spent_s + seconds,
            }
        )

    def failed(self, cause: str, seconds: float, *, retries: int) -> "Record":
        """The record after a failed attempt: quarantined once its retries are used up."""
        attempts = self.attempts + 1
        state = "failed" if attempts <= retries else "quarantined"
        update = {"state": state, "attempts": attempts, "cause": cause, "spent_s": self.spent_s + seconds}
        return self.model_copy(update=update)

    def left(self, state: State, seconds: float, cause: str = "") -> "Record":
        """The record after an attempt that ended for a reason outside the take, which does not count as an attempt."""
        return self.model_copy(update={"state": state, "spent_s": self.spent_s + seconds, "cause": cause})


@dataclass(frozen=True)
class Totals:
    """The totals of a batch."""

    states: Mapping[str, int]
    film_s: float
    left_film_s: float
    spent_s: float

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """The totals of `records`; `film_s` counts finished films, `left_film_s` unfinished ones."""
        records = list(records)
        return cls(
            Counter(record.state for record in records),
            sum(record.film_s for record in records if record.state == "done"),
            sum(record.film_s for record in records if record.state not in ENDED),
            sum(record.spent_s for record in records),
        )


class Ledger:
    """The records of a batch's takes: read once, each written whenever it changes.

    Args:
        store: the batch's folder.
        takes: all takes of the manifest; records of other takes in the folder are not touched.
        retry_quarantined: whether to retry quarantined takes.
    """

    def __init__(self, store: Store, takes: Sequence[TakeSpec], *, retry_quarantined: bool = False) -> None:
        self._store = store
        with ThreadPoolExecutor(_READERS) as readers:
            found = readers.map(lambda take: _standing(take, self._get(take), retry=retry_quarantined), takes)
            self._records = {record.id: record for record in found}

    def __getitem__(self, name: str) -> Record:
        return self._records[name]

    @property
    def records(self) -> tuple[Record, ...]:
        """The records of all takes, in the manifest's order."""
        return tuple(self._records.values())

    def put(self, record: Record) -> None:
        """Write a record. Raises `JournalError` if it cannot be written."""
        try:
            self._store.put(name_of(record.id), record.model_dump_json(indent=1, by_alias=True).encode())
        except OSError as error:
            raise JournalError(
                f"{self._store.url_of(name_of(record.id))} cannot be written ({error}); the batch stops without it"
            ) from error
        self._records[record.id] = record

    def _get(self, take: TakeSpec) -> Record | None:
        try:
            return Record.model_validate_json(self._store.get(name_of(take.id)))
        except FileNotFoundError:
            return None
        except ValidationError:
            return None  # damaged by a power failure or by hand; the take's own journal knows which chunks are finished


def name_of(take: str) -> str:
    """The name of a take's record in the folder of the batch."""
    return f"takes/{take}.json"


def _standing(take: TakeSpec, found: Record | None, *, retry: bool) -> Record:
    """The record that a run starts from, given the record `found` in the ledger."""
    fresh = Record.of(take)
    if found is None or found.fingerprint != fresh.fingerprint:
        return fresh
    # Project and tags may change at any time and do not affect the state.
    known = found.model_copy(update={"project": take.project, "tags": take.tags, "film": take.film})
    match found.state:
        case "done":
            return known if Store(take.output).exists(take.film) else fresh
        case "quarantined" if retry:
            return known.model_copy(update={"state": "pending", "attempts": 0})
        case "running":
            return known.model_copy(update={"state": "pending"})
        case _:
            return known
