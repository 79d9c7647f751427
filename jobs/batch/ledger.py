"""The ledger of a batch: what became of every take, one small file each, the only truth that a second run believes.

    batch/takes/<id>.json       put as a whole whenever the take's state changes

        pending ──> running ──> done
           ^           │──────> failed       and tried again: later, or by the next run
           └───────────┤
         (stopped)     └──────> quarantined  and left alone until it is asked for, or its wish changes

A take is tried by whoever finds it in any state but `done` and `quarantined`: a run that was killed leaves `running`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from longtake.jobs.batch.identity import fingerprint
from longtake.jobs.batch.manifest import TakeSpec
from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.store import Store

State = Literal["pending", "running", "done", "failed", "quarantined"]
STATES: tuple[State, ...] = ("done", "running", "pending", "failed", "quarantined")
ENDED = frozenset({"done", "quarantined"})
_READERS = 16


class Record(BaseModel):
    """One take as it stands.

    Args:
        wish: what it was tried as; see `identity.fingerprint`.
        attempts: how often it failed, and once more if it is done.
        cause: why it is not done.
        seconds: from its start in a gang to its film; overhead is the part in which no act worked on a chunk.
        spent_s: gang time of every attempt, those that failed included.
        film_s: seconds of film wished for.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    storyboard: str
    state: State = "pending"
    attempts: int = 0
    cause: str = ""
    seconds: float | None = None
    overhead_s: float | None = None
    spent_s: float = 0.0
    film_s: float
    output: str
    project: str = ""
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, take: TakeSpec) -> Self:
        """The record of a take that nobody has tried."""
        return cls(
            id=take.id,
            storyboard=fingerprint(take),
            film_s=take.film_s,
            output=take.output,
            project=take.project,
            tags=take.tags,
        )

    def running(self) -> "Record":
        """A gang has it."""
        return self.model_copy(update={"state": "running"})

    def done(self, seconds: float, overhead_s: float | None) -> "Record":
        """Its film is there."""
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
        """An attempt has failed: quarantined once it has had its retries."""
        attempts = self.attempts + 1
        state = "failed" if attempts <= retries else "quarantined"
        update = {"state": state, "attempts": attempts, "cause": cause, "spent_s": self.spent_s + seconds}
        return self.model_copy(update=update)

    def left(self, state: State, seconds: float, cause: str = "") -> "Record":
        """Somebody else kept it from being done; that is no attempt of its own."""
        return self.model_copy(update={"state": state, "spent_s": self.spent_s + seconds, "cause": cause})


@dataclass(frozen=True)
class Totals:
    """A batch in numbers."""

    states: Mapping[str, int]
    film_s: float
    left_film_s: float
    spent_s: float

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """The totals of `records`; `film_s` counts finished films, `left_film_s` those still to come."""
        records = list(records)
        return cls(
            Counter(record.state for record in records),
            sum(record.film_s for record in records if record.state == "done"),
            sum(record.film_s for record in records if record.state not in ENDED),
            sum(record.spent_s for record in records),
        )


class Ledger:
    """The records of a batch's takes: read once, put whenever one changes.

    Args:
        store: the batch's own folder.
        takes: all takes of the manifest; what the folder knows of others is left alone.
        retry_quarantined: whether quarantined takes are to be tried again.
    """

    def __init__(self, store: Store, takes: Sequence[TakeSpec], *, retry_quarantined: bool = False) -> None:
        self._store = store
        with ThreadPoolExecutor(_READERS) as scheduler:
            found = scheduler.map(lambda take: _standing(take, self._get(take), retry=retry_quarantined), takes)
            self._records = {record.id: record for record in found}

    def __getitem__(self, name: str) -> Record:
        return self._records[name]

    @property
    def records(self) -> tuple[Record, ...]:
        """Every take's record, in the manifest's order."""
        return tuple(self._records.values())

    def put(self, record: Record) -> None:
        """Keep a record. Raises `JournalError` where it cannot be written."""
        try:
            self._store.put(_name(record.id), record.model_dump_json(indent=1).encode())
        except OSError as error:
            raise JournalError(
                f"{self._store.url_of(_name(record.id))} cannot be written ({error}); without its ledger the batch ends"
            ) from error
        self._records[record.id] = record

    def _get(self, take: TakeSpec) -> Record | None:
        try:
            return Record.model_validate_json(self._store.get(_name(take.id)))
        except FileNotFoundError:
            return None
        except ValidationError:
            return None  # torn by a file system that lost power, or by hand; the take's own journal knows what is done


def _name(take: str) -> str:
    return f"takes/{take}.json"


def _standing(take: TakeSpec, found: Record | None, *, retry: bool) -> Record:
    """Where a run begins with `take`, of which the ledger says `found`."""
    fresh = Record.of(take)
    if found is None or found.storyboard != fresh.storyboard:
        return fresh
    # Whom a take is for may change at any time; what became of it stays.
    known = found.model_copy(update={"project": take.project, "tags": take.tags})
    match found.state:
        case "done":
            return known if Store(take.output).exists(take.film) else fresh
        case "quarantined" if retry:
            return known.model_copy(update={"state": "pending", "attempts": 0})
        case "running":
            return known.model_copy(update={"state": "pending"})
        case _:
            return known
