"""The status of a batch: its totals, and the status of each take that is being rendered."""

from collections.abc import Iterator
from time import sleep

from pydantic import BaseModel, ConfigDict
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from longtake.jobs.batch.ledger import STATES, Record, Totals
from longtake.jobs.batch.roster import read_records
from longtake.jobs.feedback import plain_console
from longtake.jobs.interrupt import until_ctrl_c
from longtake.jobs.pace import span
from longtake.pipeline.errors import SpecError
from longtake.pipeline.inspect.status import Status, read_status
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import owner_of


class BatchStatus(BaseModel):
    """The status of a batch at one moment.

    Args:
        state: "rendering" while a process owns the batch; else "done", or "stopped" with takes unfinished.
        film_s, left_film_s: seconds of film that are finished, and that are not.
        spent_s: gang time of all attempts.
        running: the takes that are being rendered, by id; None for one whose actors are starting.
    """

    model_config = ConfigDict(frozen=True)

    state: str
    takes: int
    states: dict[str, int]
    film_s: float
    left_film_s: float
    spent_s: float
    running: dict[str, Status | None]


def print_batch(folder: Store, *, watch: bool, as_json: bool) -> None:
    """Print the status of the batch in `folder`; with `watch`, refresh it every second until its end or Ctrl-C."""
    with until_ctrl_c():
        statuses = _statuses(folder) if watch else iter([_read(folder)])
        if as_json:
            for status in statuses:
                print(status.model_dump_json(), flush=True)
        elif watch:
            with Live(console=plain_console(), auto_refresh=False) as live:
                for status in statuses:
                    live.update(_layout(status), refresh=True)
        else:
            for status in statuses:
                plain_console().print(_layout(status))


def _statuses(folder: Store) -> Iterator[BatchStatus]:
    while True:
        status = _read(folder)
        yield status
        if status.state != "rendering":
            return
        sleep(1)


def _read(folder: Store) -> BatchStatus:
    records = read_records(folder)
    totals, is_owned = Totals.of(records), owner_of(folder) is not None
    counts = {state: totals.states[state] for state in STATES if totals.states.get(state)}
    done = counts.get("done", 0) == len(records)
    return BatchStatus(
        state="rendering" if is_owned else "done" if done else "stopped",
        takes=len(records),
        states=counts,
        film_s=totals.film_s,
        left_film_s=totals.left_film_s,
        spent_s=totals.spent_s,
        running={record.id: _take(record) for record in records if is_owned and record.state == "running"},
    )


def _take(record: Record) -> Status | None:
    try:
        return read_status(Store(record.output))
    except SpecError:
        return None


def _layout(status: BatchStatus) -> Group:
    counts = ", ".join(f"{number} {state}" for state, number in status.states.items())
    head = Text(f"{status.state}: {counts or 'none'} of {status.takes} takes")
    films = Text(
        f"{span(status.film_s)} of film finished, {span(status.left_film_s)} left, {span(status.spent_s)} spent"
    )
    table = Table("take", "", "published", "chunks", "left", box=None, pad_edge=False)
    for name, take in status.running.items():
        if take is None:
            table.add_row(Text(name), "starting", "", "", "")
        else:
            left = "" if take.eta_s is None else f"about {span(take.eta_s)}"
            done = f"{span(take.published_s)} of {span(take.film_s)}"
            table.add_row(Text(name), take.state, done, f"{take.published}/{take.chunks}", left)
    return Group(head, films, *([table] if status.running else []))
