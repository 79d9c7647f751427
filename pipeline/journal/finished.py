"""`journal/film.json`: the film that is published, so that a finished take is recognized without rendering.

The record is removed when a render begins, and written once the film is published. Until then the film in the output
root, if there is one, is that of an earlier storyboard.
"""

import json
from fractions import Fraction
from hashlib import sha256

from pydantic import BaseModel, ConfigDict, ValidationError

from longtake.pipeline.journal.event_log import NAME as EVENTS
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import read_take

NAME = "journal/film.json"


class FilmRecord(BaseModel):
    """A published film.

    Args:
        key: equal keys mean the same film, bit for bit; see `Take.film_key`.
        film: its name in the output root.
        playlist: the name of its live playlist; None if it has none.
        state: of its files as they were published; see `published_state`.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    film: str
    playlist: str | None
    chunks: int
    frames: int
    samples: int
    duration_s: Fraction
    state: str


def put_finished(store: Store, record: FilmRecord) -> None:
    """Record that a film is published."""
    store.put(NAME, record.model_dump_json(indent=1).encode())


def forget_finished(store: Store) -> None:
    """The film in the output root is that of an earlier storyboard from now on, or is published again."""
    store.delete(NAME)


def read_finished(store: Store) -> FilmRecord | None:
    """The record of the film in `store`; None if there is none, or if its files have changed since."""
    try:
        record = FilmRecord.model_validate_json(store.get(NAME))
    except (FileNotFoundError, ValidationError):
        return None
    return record if published_state(store, record.film, record.playlist) == record.state else None


def published_state(store: Store, film: str, playlist: str | None) -> str:
    """A digest that changes whenever the film's file does, or the names or sizes of the live playlist's files."""
    live = {} if playlist is None else store.list(playlist.rpartition("/")[0])
    return sha256(json.dumps([store.version(film), live]).encode()).hexdigest()


def num_finished_chunks(store: Store) -> int:
    """The chunks of the finished film in an output root; 0 if it holds no film, or a render has begun to change it."""
    try:
        card = read_take(store)
    except (FileNotFoundError, ValidationError):
        return 0
    finished = store.exists(card.film) and (store.exists(NAME) or _ended_well(store))
    return len(card.chunk_stops) if finished else 0


def _ended_well(store: Store) -> bool:
    """Whether the latest render finished a film, by its event log: earlier versions wrote no record."""
    if not store.exists(EVENTS):
        return False
    log = store.get(EVENTS)
    started, done = (log.rfind(b'"event": "film.%s"' % what) for what in (b"start", b"done"))
    return done > started
