"""`longtake batch`: render the takes of a manifest, several at once; a second run renders only unfinished takes.

manifest.py    the takes to render: everything is read and checked before anything starts
ledger.py      the state of every take, without Ray or torch
roster.py      which takes there are, for programs without the manifest
queue.py       the order of the takes: priorities, then projects in round-robin
scheduler.py   gangs, retries, quarantine
session.py     where a gang renders: the only file here that imports Ray and torch
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import PurePosixPath
from threading import Event
from time import monotonic

from longtake.jobs.batch.ledger import ENDED, STATES, Ledger, Totals
from longtake.jobs.batch.manifest import LEDGER, TakeSpec, read_manifest
from longtake.jobs.batch.options import BatchOptions
from longtake.jobs.batch.progress import BatchProgress
from longtake.jobs.batch.report import PAGE, Report, Run, put_report
from longtake.jobs.batch.roster import put_roster
from longtake.jobs.batch.scheduler import BatchScheduler, BatchSession
from longtake.jobs.interrupt import received, stop_on_signals
from longtake.jobs.progress import Progress
from longtake.pipeline.errors import Cancelled, SpecError
from longtake.pipeline.journal.cancel import CancelWatch
from longtake.pipeline.journal.root import output_root
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import sole_writer

Sessions = Callable[[tuple[TakeSpec, ...], BatchOptions], AbstractContextManager[Callable[[], BatchSession]]]
"""Opens render sessions for the unfinished takes; they can be used within the block. The call itself checks the takes,
and writes nothing."""


def batch_command(manifest: str, output: str | None, options: BatchOptions, progress: Progress) -> int:
    """Render the unfinished takes on Ray. Returns the exit code: 0 all done, 1 some takes failed."""
    stop = Event()

    def on_ray(todo: tuple[TakeSpec, ...], options: BatchOptions) -> AbstractContextManager[Callable[[], BatchSession]]:
        for take in todo:
            if take.output.startswith("memory:"):
                raise SpecError(f"{take.id}: output is {take.output}; memory belongs to one process, use a folder")
        progress.phase("loading PyTorch and Ray")
        from longtake.actors.cluster import cluster_note
        from longtake.jobs.batch.session import ray_sessions

        if note := cluster_note(options.address):
            progress.say(f"{note}.")
        progress.phase("checking the takes")
        return opened(ray_sessions(todo, options, stop))

    @contextmanager
    def opened(
        sessions: AbstractContextManager[Callable[[], BatchSession]],
    ) -> Iterator[Callable[[], BatchSession]]:
        progress.phase("starting Ray")
        # After Ray was imported, since that sets a signal handler.
        with sessions as open_session, stopping_cleanly(stop, progress):
            yield open_session

    report = render_batch(manifest, output or f"out/{PurePosixPath(manifest).stem}", options, on_ray, stop, progress)
    progress.stop()
    states = report.totals.states
    counts = ", ".join(f"{states[state]} {state}" for state in STATES if states.get(state))
    progress.feedback.result(
        f"{counts} of {len(report.records)} takes: {report.url}",
        takes=len(report.records),
        **{state: states.get(state, 0) for state in STATES},
        report=report.url,
        seconds=round(report.run.seconds, 2),
    )
    if report.run.stopped and (interrupted := received()):
        raise interrupted
    return int(states.get("done", 0) < len(report.records))


def render_batch(
    manifest: str, root: str, options: BatchOptions, sessions: Sessions, stop: Event, progress: Progress
) -> Report:
    """Render the unfinished takes of a batch into `root`, and write the report there.

    No session is opened if all takes are finished.

    Args:
        stop: once set, no further take starts, and running takes stop after their current chunk.

    Raises:
        SpecError: the manifest has mistakes, the root cannot be written, or finished films would be lost; nothing was
            started.
        JournalError: another batch runs in `root`, or the ledger cannot be written.
    """
    started = monotonic()
    takes = read_manifest(manifest, root, options.overrides)
    output_root(root)
    store = Store(f"{root.rstrip('/')}/{LEDGER}")
    _, todo = _standing(store, takes, options)
    opened = sessions(todo, options) if todo else None
    with sole_writer(store):
        ledger, todo = _standing(store, takes, options)
        put_roster(store, ledger.records)
        done_before = len([record for record in ledger.records if record.state == "done"])
        num_gangs = min(options.at_once, len(todo))
        if todo and opened is not None:
            progress.say(f"Rendering {len(todo)} of {len(takes)} takes, {num_gangs} at once.")
            scheduler = BatchScheduler(todo, ledger, options.retries, stop)
            with opened as open_session, BatchProgress(ledger, num_gangs, progress) as shown:
                scheduler.run(open_session, num_gangs, _stopped_by_cancel(store, stop, progress, shown.tick))
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


def _standing(store: Store, takes: Sequence[TakeSpec], options: BatchOptions) -> tuple[Ledger, tuple[TakeSpec, ...]]:
    """The ledger, and the unfinished takes."""
    ledger = Ledger(store, takes, retry_quarantined=options.retry_quarantined)
    return ledger, tuple(take for take in takes if ledger[take.id].state not in ENDED)


def _stopped_by_cancel(store: Store, stop: Event, progress: Progress, tick: Callable[[], None]) -> Callable[[], None]:
    """`tick`, which also sets `stop` once `longtake cancel` asks for it."""
    watch = CancelWatch(store)

    def look() -> None:
        tick()
        if not stop.is_set():
            try:
                watch.look()
            except Cancelled as cancelled:
                progress.say(f"Stopping after the current chunks: {cancelled}.")
                stop.set()

    return look


@contextmanager
def stopping_cleanly(stop: Event, progress: Progress) -> Iterator[None]:
    """Within the block, the first signal sets `stop`; the second ends the process."""

    def announce() -> None:
        progress.say("Stopping: running takes stop after their current chunk and are kept. Repeat to stop at once.")
        stop.set()

    with stop_on_signals(announce):
        yield
