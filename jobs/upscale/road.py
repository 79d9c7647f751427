"""Upscale on Ray: the road of `pipeline/upscale.py`, with workers in place of one maker."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain

from actors.upscale_shift import Upscalers
from actors.upscalers import Tools, UpscaleOrder
from pipeline.footage.values import Footage
from pipeline.journal.keys import Parts
from pipeline.journal.writer import sole_writer
from pipeline.observe import Observer
from pipeline.upscale import Upscaled, begin, cuts_of, finish
from pipeline.upscaling.output import Output
from pipeline.upscaling.plan import ChunkGrid, UpscaleWish
from pipeline.upscaling.work import open_upscaling


@dataclass(frozen=True)
class Shop:
    """Who does the work.

    Args:
        workers: entered only if there is something to make.
        numerics: of a worker.
        grid: of the model.
        count: how many of the workers do; all unless told.
    """

    workers: AbstractContextManager[Upscalers]
    tools: Tools
    numerics: Parts
    grid: ChunkGrid
    count: int | None = None


def upscale(
    footage: Footage,
    wish: UpscaleWish,
    shop: Shop,
    output: Output,
    observer: Observer,
    beat: Callable[[], None] = lambda: None,
) -> Upscaled:
    """Upscale footage with workers; the same bits as `pipeline.upscale.upscale`.

    Raises:
        PoisonError: a segment failed again and again.
        Cancelled: somebody asked for it, if `beat` looks for that.
    """
    with sole_writer(output.journal):
        cuts = cuts_of(footage, wish, output.journal, observer)
        work = open_upscaling(footage, cuts, wish, output.journal, shop.numerics, shop.grid)
        written, error = begin(work, output, observer), None
        if written is None:
            missing = work.missing()
            if (first := next(missing, None)) is not None:
                order = UpscaleOrder.of(work, shop.tools)
                with shop.workers as workers, workers.on(order, observer, shop.count) as shift:
                    shift.make(chain((first,), missing), beat)
                    error = shift.boundary_error() if work.approximates else None
            written = finish(work, output, observer)
    return Upscaled(written, error)
