"""The report of a batch, as JSON and as a page: what was rendered, times, costs and failure causes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from statistics import median
from string import Template
from typing import Any

from longtake.jobs.batch.ledger import STATES, Record, Totals
from longtake.jobs.batch.progress import span
from longtake.pipeline.journal.store import Store

_PAGE = Template(resources.files("longtake.jobs").joinpath("batch/report.html").read_text("utf-8"))
_MOST_ROWS = 2000

PAGE = "report.html"
"""The name of the page in the batch's folder."""


@dataclass(frozen=True)
class Run:
    """One run of the command.

    Args:
        seconds: from reading the manifest to the end.
        finished: the number of takes that this run finished.
        stopped: whether the run was stopped with takes unfinished.
        price_per_hour: of one gang, in any currency.
    """

    manifest: str
    root: str
    num_gangs: int
    seconds: float
    finished: int
    stopped: bool
    price_per_hour: float | None = None


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

    def to_html(self) -> str:
        """The page as one self-contained file."""
        states = self.totals.states
        return _PAGE.substitute(
            title=escape(self.run.manifest.rsplit("/", 1)[-1]),
            about=escape(" · ".join(self._about())),
            grade=_grade(self),
            summary=escape(_summary(self)),
            bar="".join(
                f'<i class="{state}" style="flex:{states[state]}" title="{states[state]} {state}"></i>'
                for state in STATES
                if states.get(state)
            ),
            cards="".join(_cards(self)),
            sections="".join(_sections(self.records)),
        )

    def _about(self) -> Iterable[str]:
        yield f"{len(self.records)} takes"
        yield f"last run: {span(self.run.seconds)}, {self.run.num_gangs} gangs"
        yield self.run.root


def put_report(store: Store, report: Report) -> None:
    """Write `report.json` and the page."""
    store.put("report.json", report.to_json().encode())
    store.put(PAGE, report.to_html().encode())


# ------------------------------------------------------------------ the page


def _grade(report: Report) -> str:
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


def _cards(report: Report) -> Iterable[str]:
    figures, run = report.figures(), report.run
    yield _card("Takes done", f"{figures['done']} of {figures['takes']}", f"{run.finished} by the last run")
    yield _card("Film", span(figures["film_s"]), f"in {span(figures['spent_s'])} of gang time")
    if run.finished and run.seconds > 0:
        yield _card("Speed", f"{60 * run.finished / run.seconds:.3g}/min", "takes in the last run")
    if figures["median_seconds_per_take"] is not None:
        yield _card(
            "Time per take",
            _short(figures["median_seconds_per_take"]),
            f"median; {_short(figures['longest_take_s'])} at most",
        )
    if figures["median_overhead_s"] is not None:
        yield _card("Overhead", _short(figures["median_overhead_s"]), "median per take; no stage was working")
    yield _card("Failed attempts", str(figures["failed_attempts"]), f"{figures['quarantined']} takes quarantined")
    if figures["cost_per_film_minute"] is not None:
        price = f"{run.price_per_hour:g} per gang hour"
        yield _card(
            "Cost per minute of film",
            f"{figures['cost_per_film_minute']:.3g}",
            f"{figures['cost']:.3g} in total, at {price}",
        )


def _card(title: str, value: str, note: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3><b>{escape(value)}</b><p>{escape(note)}</p></div>'


def _sections(records: Sequence[Record]) -> Iterable[str]:
    broken = [record for record in records if record.state in ("quarantined", "failed")]
    if broken:
        yield "<h2>Failures</h2><p>Quarantined takes are retried once they are edited, or with --retry-quarantined.</p>"
        yield _table(broken, ("take", "", "attempts", "cause"), _failure)
    projects = dict.fromkeys(record.project for record in records)
    if len(projects) > 1:
        of = {name: Totals.of(record for record in records if record.project == name) for name in projects}
        rows = "".join(map(_project, of.items()))
        yield f"<h2>Projects</h2><table>{_head(('project', 'takes', 'done', 'film', 'gang time'))}{rows}</table>"
    shown = sorted(records, key=lambda record: -record.spent_s)[:_MOST_ROWS]
    yield f"<h2>Takes</h2><p>The {len(shown)} longest, by gang time.</p>"
    yield _table(shown, ("take", "", "project", "tags", "film", "seconds", "overhead", "attempts", "output"), _take)


def _table(records: Iterable[Record], head: Iterable[str], row: Any) -> str:
    return f"<table>{_head(head)}{''.join(map(row, records))}</table>"


def _head(names: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _failure(record: Record) -> str:
    cause = f'<td class="cause">{escape(record.cause)}</td>'
    return f"<tr><td>{escape(record.id)}</td>{_state(record)}<td>{record.attempts}</td>{cause}</tr>"


def _project(item: tuple[str, Totals]) -> str:
    name, totals = item
    takes, done = sum(totals.states.values()), totals.states.get("done", 0)
    return _row(name or "none", str(takes), str(done), span(totals.film_s), span(totals.spent_s))


def _take(record: Record) -> str:
    cells = (
        record.project,
        ", ".join(record.tags),
        span(record.film_s),
        _short(record.seconds),
        _short(record.overhead_s),
        str(record.attempts),
        record.output,
    )
    return (
        f"<tr><td>{escape(record.id)}</td>{_state(record)}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    )


def _state(record: Record) -> str:
    return f'<td><span class="state {record.state}">{record.state}</span></td>'


def _short(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:.0f} ms" if seconds < 0.995 else f"{seconds:.1f} s" if seconds < 99.5 else span(seconds)
