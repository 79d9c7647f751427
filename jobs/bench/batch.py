"""A batch of two hundred small takes, three of them broken, by two gangs; then the same command again."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from time import perf_counter

import ray
from typing_extensions import override

from longtake.jobs.batch.manifest import TakeSpec
from longtake.jobs.batch.options import BatchOptions
from longtake.jobs.batch.run import render_batch
from longtake.jobs.batch.scheduler import RETRIES, BatchSession, Rendered
from longtake.jobs.batch.session import RaySession, ray_sessions
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.progress import Progress

STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces fast, duration: 2s}]}"
DEADLY = "deadly"


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Render a batch and read the figures from its report. The second run is a new process, timed from start to end."""
    num_takes = options.pick(full=200, quick=24, smoke=4)
    retries = replace(RETRIES, retries=options.pick(full=1, quick=1, smoke=0), back_off_s=0.1)
    with TemporaryDirectory() as folder:
        manifest, root = _manifest(Path(folder), num_takes), Path(folder) / "out"
        batch = BatchOptions(gangs=options.pick(full=2, quick=2, smoke=1), retries=retries)
        figures = render_batch(str(manifest), str(root), batch, _sessions, Event(), Progress.silent()).figures()
        started = perf_counter()
        command = [sys.executable, "-m", "longtake.jobs.batch", str(manifest), "-o", str(root)]
        again = subprocess.run(command, capture_output=True, check=False)
        second_run_s = perf_counter() - started
        finished_again = json.loads((root / "batch" / "report.json").read_text())["run"]["finished"]
    return {
        "not_done": num_takes - 3.0 - figures["done"],
        "quarantined": figures["quarantined"],
        "overhead_per_take_s": figures["median_overhead_s"],
        "seconds_per_take": figures["median_seconds_per_take"],
        "second_run_s": second_run_s,
        "done_twice": finished_again + float(again.returncode != 1),
    }


def _manifest(folder: Path, num_takes: int) -> Path:
    """Takes that differ by their seed, and three broken ones: too wide for the model, deadly for its actors, and with
    a store that raises."""
    (folder / "film.yaml").write_text(STORYBOARD)
    (folder / "file").write_text("no folder can be created below a file")
    takes: list[dict[str, object]] = [
        {"id": f"take-{number:03d}", "overrides": {"seed": number}} for number in range(num_takes - 3)
    ]
    broken: list[dict[str, object]] = [
        {"id": "impossible", "overrides": {"video.width": 66}},
        {"id": DEADLY, "overrides": {"sampling.steps": 1000}},  # a chunk must take longer than one tick
        {"id": "unwritable", "output": str(folder / "file" / "take")},
    ]
    lines = [json.dumps({"storyboard": "film.yaml", **take}) for take in takes[:10] + broken + takes[10:]]
    (folder / "takes.jsonl").write_text("\n".join(lines))
    return folder / "takes.jsonl"


@contextmanager
def _sessions(todo: tuple[TakeSpec, ...], options: BatchOptions) -> Iterator[Callable[[], BatchSession]]:
    with ray_sessions(todo, options) as open_session:
        yield lambda: _DeadlySession(open_session())


class _DeadlySession(BatchSession):
    """A session on Ray in which one take kills its denoiser on every tick."""

    def __init__(self, session: BatchSession) -> None:
        assert isinstance(session, RaySession), "only actors can be killed"
        self._session, self._kills = session, False

    @override
    def ready(self, take: TakeSpec) -> None:
        self._kills = take.id == DEADLY
        self._session.ready(take)

    @override
    def render(self, tick: Callable[[], None]) -> Rendered:
        def deadly() -> None:
            tick()
            pool = self._session.pool
            if self._kills and pool is not None:
                ray.kill(pool.gangs[0].actors[0])

        return self._session.render(deadly)

    @override
    def close(self) -> None:
        self._session.close()
