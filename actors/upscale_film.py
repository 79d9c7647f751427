"""Upscale on Ray: the road of `pipeline/upscale_film.py`, with workers in place of one maker."""

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
    """Who does the work.

    Args:
        workers: entered only if there is something to make.
        numerics: of a worker.
        grid: of the model.
        count: how many of the workers do; all unless told.
    """

    workers: AbstractContextManager[UpscalePool]
    tools: WorkerConfig
    numerics: Parts
    grid: ChunkGrid
    count: int | None = None


def upscale(
    footage: Footage,
    spec: UpscaleSpec,
    shop: WorkerSetup,
    output: Output,
    observer: Observer,
    tick: Callable[[], None] = lambda: None,
) -> Upscaled:
    """Upscale footage with workers; the same bits as `longtake.pipeline.upscale_film.upscale`.

    Raises:
        PoisonError: a segment failed again and again.
        Cancelled: somebody asked for it, if `beat` looks for that.
    """
    with sole_writer(output.journal):
        cuts = cuts_of(footage, spec, output.journal, observer)
        work = open_upscaling(footage, cuts, spec, output.journal, shop.numerics, shop.grid)
        written, error = begin(work, output, observer), None
        if written is None:
            missing = work.missing()
            if (first := next(missing, None)) is not None:
                order = UpscaleTask.of(work, shop.tools)
                with shop.workers as workers, workers.on(order, observer, shop.count) as shift:
                    shift.make(chain((first,), missing), tick)
                    error = shift.boundary_error() if work.approximates else None
            written = finish(work, output, observer)
    return Upscaled(written, error)
