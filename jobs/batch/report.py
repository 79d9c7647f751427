"""The report of a batch, as JSON and as a page: what was rendered, times, costs and failure causes.

batch/report.json, report.html      of the last run
batch/runs/TIME.json, TIME.html     of every run, by the time when it began
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from statistics import median
from typing import Any

from longtake.jobs.batch.ledger import STATES, Record, Totals
from longtake.jobs.batch.thumbnails import link, thumbnails
from longtake.jobs.pace import span
from longtake.pipeline.journal.store import Store
from longtake.pipeline.pages.template import render_page

_MOST_ROWS = 2000
_MOST_RUNS = 100

PAGE = "report.html"
"""The name of the page in the batch's folder."""
RUNS = "runs"
"""The folder with the reports of every run."""


@dataclass(frozen=True)
class Run:
    """One run of the command.

    Args:
        seconds: from reading the manifest to the end.
        finished: the number of takes that this run finished.
        stopped: whether the run was stopped with takes unfinished.
        price_per_hour: of one gang, in any currency.
        began: when, in UTC.
    """

    manifest: str
    root: str
    num_gangs: int
    seconds: float
    finished: int
    stopped: bool
    price_per_hour: float | None = None
    began: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ"))


@dataclass(frozen=True)
class Report:
    """The state of all takes after a run; `url` is where the page is."""

    run: Run
    records: Sequence[Record]
    url: str
    totals: Totals = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "totals", Totals.of(self.records))

    @property
    def cost(self) -> float | None:
        """The cost of all attempts of all takes, over all runs; None without a price."""
        price = self.run.price_per_hour
        return None if price is None else price * self.totals.spent_s / 3600

    @property
    def cost_per_film_minute(self) -> float | None:
        """The cost per minute of finished film, with the cost of failed attempts; None without a price or a film."""
        return None if self.cost is None or not self.totals.film_s else 60 * self.cost / self.totals.film_s

    def figures(self) -> dict[str, Any]:
        """The figures of the batch."""
        seconds = [record.seconds for record in self.records if record.seconds is not None]
        overheads = [record.overhead_s for record in self.records if record.overhead_s is not None]
        return {
            "takes": len(self.records),
            **{state: self.totals.states.get(state, 0) for state in STATES},
            "failed_attempts": sum(record.attempts - (record.state == "done") for record in self.records),
            "film_s": self.totals.film_s,
            "spent_s": self.totals.spent_s,
            "median_seconds_per_take": median(seconds) if seconds else None,
            "longest_take_s": max(seconds, default=None),
            "median_overhead_s": median(overheads) if overheads else None,
            "cost": self.cost,
            "cost_per_film_minute": self.cost_per_film_minute,
        }

    def to_json(self) -> str:
        """The run, the figures and all takes as JSON."""
        whole = {
            "run": vars(self.run),
            "figures": self.figures(),
            "takes": [record.model_dump(by_alias=True) for record in self.records],
        }
        return json.dumps(whole, indent=1)

    def to_html(
        self, folder: str = "", thumbs: Mapping[str, str] | None = None, runs: Sequence[tuple[str, str]] = ()
    ) -> str:
        """The page as one self-contained file.

        Args:
            folder: where the page will be; films are linked from there. Without it there are no links.
            thumbs: a still of each take by its id, as a data URL.
            runs: names and addresses of the pages of earlier runs.
        """
        states = self.totals.states
        broken = [record for record in self.records if record.state in ("quarantined", "failed")]
        shown = sorted(self.records, key=lambda record: -record.spent_s)[:_MOST_ROWS]
        return render_page(
            "jobs/batch/report.html",
            title=self.run.manifest.rsplit("/", 1)[-1],
            about=" · ".join(self._about()),
            tone=_tone(self),
            summary=_summary(self),
            states=[(state, states[state]) for state in STATES if states.get(state)],
            cards=list(_cards(self)),
            broken=broken,
            projects=_projects(self.records),
            takes=shown,
            links={record.id: link(record, folder) for record in (*shown, *broken)} if folder else {},
            thumbs=thumbs or {},
            runs=runs,
            span=span,
            short=_short,
        )

    def _about(self) -> Iterable[str]:
        yield f"{len(self.records)} takes"
        gangs = f"{self.run.num_gangs} gang{'s' * (self.run.num_gangs > 1)}"
        yield f"run of {self.run.began}: {span(self.run.seconds)}, {gangs}"
        yield self.run.root


def put_report(store: Store, report: Report) -> None:
    """Write the report of this run, and the same as that of the last run. Reports of earlier runs stay."""
    earlier = sorted((name for name in store.list(RUNS) if name.endswith(".html")), reverse=True)[:_MOST_RUNS]
    earlier = [name.rpartition("/")[2] for name in earlier]
    names = (report.run.began + (f"-{number}" if number > 1 else "") for number in count(1))
    name = next(name for name in names if f"{name}.html" not in earlier)
    thumbs = thumbnails(store, report.records)
    for place, folder in ((f"{RUNS}/{name}", f"{RUNS}/"), ("report", "")):
        up = "" if folder else f"{RUNS}/"
        runs = [(run.removesuffix(".html"), f"{up}{run}") for run in earlier]
        store.put(f"{place}.json", report.to_json().encode())
        store.put(f"{place}.html", report.to_html(f"{store.url}/{folder}", thumbs, runs).encode())


# ------------------------------------------------------------------ the page


def _tone(report: Report) -> str:
    states = report.totals.states
    if states.get("quarantined") or states.get("failed"):
        return "quarantined"
    return "done" if states.get("done", 0) == len(report.records) else "pending"


def _summary(report: Report) -> str:
    states = report.totals.states
    if states.get("done", 0) == len(report.records):
        return "All takes are done"
    parts = [f"{states[state]} {state}" for state in STATES if states.get(state)]
    return ("Stopped: " if report.run.stopped else "") + ", ".join(parts)


def _cards(report: Report) -> Iterable[tuple[str, str, str]]:
    """Title, value and note of each figure."""
    figures, run = report.figures(), report.run
    yield "Takes done", f"{figures['done']} of {figures['takes']}", f"{run.finished} by the last run"
    yield "Film", span(figures["film_s"]), f"in {span(figures['spent_s'])} of gang time"
    if run.finished and run.seconds > 0:
        yield "Speed", f"{60 * run.finished / run.seconds:.3g}/min", "takes in the last run"
    if figures["median_seconds_per_take"] is not None:
        longest = _short(figures["longest_take_s"])
        yield "Time per take", _short(figures["median_seconds_per_take"]), f"median; {longest} at most"
    if figures["median_overhead_s"] is not None:
        yield "Overhead", _short(figures["median_overhead_s"]), "median per take; no stage was working"
    yield "Failed attempts", str(figures["failed_attempts"]), f"{figures['quarantined']} takes quarantined"
    if figures["cost_per_film_minute"] is not None:
        note = f"{figures['cost']:.3g} in total, at {run.price_per_hour:g} per gang hour"
        yield "Cost per minute of film", f"{figures['cost_per_film_minute']:.3g}", note


def _projects(records: Sequence[Record]) -> list[tuple[str, int, int, str, str]]:
    """Name, takes, takes done, film and gang time of each project, if there are several."""
    names = dict.fromkeys(record.project for record in records)
    if len(names) < 2:
        return []
    of = {name: Totals.of(record for record in records if record.project == name) for name in names}
    return [
        (
            name or "none",
            sum(totals.states.values()),
            totals.states.get("done", 0),
            span(totals.film_s),
            span(totals.spent_s),
        )
        for name, totals in of.items()
    ]


def _short(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:.0f} ms" if seconds < 0.995 else f"{seconds:.1f} s" if seconds < 99.5 else span(seconds)
