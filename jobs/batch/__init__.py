"""`longtake batch`: render the takes of a manifest, several at once; whoever runs it again does what is left.

manifest.py   what to render: read and checked whole, before anything starts
ledger.py     what became of every take; decides what is left to do, without Ray or torch
turns.py      whose turn it is
pool.py       gangs at work, retries, quarantine
studio.py     where a gang renders: the only file here that knows Ray and torch
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from threading import Event
from time import monotonic

from rich.console import Console

from longtake.jobs.batch.ledger import ENDED, STATES, Ledger, Totals
from longtake.jobs.batch.manifest import LEDGER, TakeSpec, read_manifest
from longtake.jobs.batch.progress import BatchProgress
from longtake.jobs.batch.report import PAGE, Report, Run, put_report
from longtake.jobs.batch.scheduler import BatchScheduler, RenderSession, Retries
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import sole_writer


@dataclass(frozen=True)
class BatchOptions:
    """Flags of `longtake batch`; see its help."""

    gangs: int = 1
    max_parallel: int | None = None
    ranks: int = 1
    threads: int = 1
    retries: Retries = field(default_factory=Retries)
    retry_quarantined: bool = False
    price_per_hour: float | None = None
    address: str | None = None
    budget_mib: int = 256
    chunk_deadline_s: float = 900.0
    overrides: tuple[str, ...] = ()
    dtype: str | None = None
    quantize: str | None = None
    device: str = "cpu"

    @property
    def at_once(self) -> int:
        """Takes that may be rendered at once."""
        return min(self.gangs, self.max_parallel or self.gangs)


Sessions = Callable[[tuple[TakeSpec, ...], BatchOptions], AbstractContextManager[Callable[[], RenderSession]]]
"""What opens studios for the takes that are to be done, as long as the block runs."""


def batch_command(manifest: str, output: str | None, options: BatchOptions) -> int:
    """Render what is left of a batch on Ray. Returns the exit code: 0 all done, 1 some takes are not, 130 stopped."""
    console, stop = Console(), Event()

    @contextmanager
    def on_ray(todo: tuple[TakeSpec, ...], options: BatchOptions) -> Iterator[Callable[[], RenderSession]]:
        for take in todo:
            if take.output.startswith("memory:"):
                raise SpecError(f"{take.id}: output is {take.output}; memory belongs to one process, use a folder")
        from longtake.jobs.batch.session import ray_sessions

        # Only now, since importing Ray sets a signal handler.
        with ray_sessions(todo, options) as open_session, _interruptible(stop, console):
            yield open_session

    report = render_batch(manifest, output or f"out/{PurePosixPath(manifest).stem}", options, on_ray, stop, console)
    states = report.totals.states
    told = ", ".join(f"{states[state]} {state}" for state in STATES if states.get(state))
    console.print(f"{told} of {len(report.records)} takes: {report.url}", highlight=False)
    return 130 if report.run.stopped else int(states.get("done", 0) < len(report.records))


def render_batch(
    manifest: str, root: str, options: BatchOptions, sessions: Sessions, stop: Event, console: Console
) -> Report:
    """Render what is left of a batch into `root`, and put the report there. Nothing is opened where nothing is left.

    Args:
        stop: once set, no take starts any more, and those that run end at their next chunk.

    Raises:
        SpecError: the manifest has mistakes; nothing was started.
        JournalError: another batch runs in the same place, or the ledger cannot be written.
    """
    started = monotonic()
    takes, store = read_manifest(manifest, root, options.overrides), Store(f"{root.rstrip('/')}/{LEDGER}")
    with sole_writer(store):
        ledger = Ledger(store, takes, retry_quarantined=options.retry_quarantined)
        todo = tuple(take for take in takes if ledger[take.id].state not in ENDED)
        done_before = len([record for record in ledger.records if record.state == "done"])
        num_gangs = min(options.at_once, len(todo))
        if todo:
            console.print(
                f"{len(todo)} of {len(takes)} takes are to be rendered, {num_gangs} at once.", highlight=False
            )
            scheduler = BatchScheduler(todo, ledger, options.retries, stop)
            with sessions(todo, options) as open_session, BatchProgress(ledger, num_gangs, console) as progress:
                scheduler.run(open_session, num_gangs, progress.tick)
        states = Totals.of(ledger.records).states
        run = Run(
            manifest=manifest,
            root=root,
            num_gangs=num_gangs,
            seconds=monotonic() - started,
            finished=states.get("done", 0) - done_before,
            stopped=stop.is_set() and any(states.get(state) for state in ("pending", "failed")),
            price_per_hour=options.price_per_hour,
        )
        report = Report(run, ledger.records, store.url_of(PAGE))
        put_report(store, report)
    return report


@contextmanager
def _interruptible(stop: Event, console: Console) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends a batch in order; a second one does not wait for that."""

    def first(*_: object) -> None:
        for number in signals:
            signal.signal(number, lambda *_: os._exit(130))
        console.print("Stopping: takes end at their next chunk and are kept; once more to stop at once.")
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, first) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
