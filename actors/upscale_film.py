"""Upscaling on Ray: `pipeline/upscale_film.py` with workers in place of one process."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain

from longtake.actors.upscale_actor import UpscaleTask, WorkerConfig
from longtake.actors.upscale_pool import UpscalePool
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.keys import Parts
from longtake.pipeline.journal.writer import sole_writer
from longtake.pipeline.models.streaming_upscaler import ChunkGrid
from longtake.pipeline.observe import Observer
from longtake.pipeline.upscale_film import Upscaled, begin, cuts_of, finish
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import UpscaleSpec
from longtake.pipeline.upscaling.work import open_upscaling


@dataclass(frozen=True)
class WorkerSetup:
    """The workers that upscale a film.

    Args:
        workers: entered only if segments are missing.
        config: what each worker computes with.
        numerics: of a worker.
        grid: of the model.
        count: how many of the workers take part; all unless given.
    """

    workers: AbstractContextManager[UpscalePool]
    config: WorkerConfig
    numerics: Parts
    grid: ChunkGrid
    count: int | None = None


def upscale(
    footage: Footage,
    spec: UpscaleSpec,
    setup: WorkerSetup,
    output: Output,
    observer: Observer,
    tick: Callable[[], None] = lambda: None,
) -> Upscaled:
    """Upscale footage with workers; the same bits as `longtake.pipeline.upscale_film.upscale`.

    Args:
        tick: called a few times a second; what it raises ends the work.

    Raises:
        PoisonError: a segment failed too often.
    """
    with sole_writer(output.journal):
        cuts = cuts_of(footage, spec, output.journal, observer)
        work = open_upscaling(footage, cuts, spec, output.journal, setup.numerics, setup.grid)
        written, error = begin(work, output, observer), None
        if written is None:
            missing = work.missing()
            if (first := next(missing, None)) is not None:
                observer.event("cluster.start")
                task = UpscaleTask.of(work, setup.config)
                with setup.workers as workers, workers.opened(task, observer, setup.count) as run:
                    run.make(chain((first,), missing), tick)
                    error = run.boundary_error() if work.approximates else None
            written = finish(work, output, observer)
    return Upscaled(written, error)
