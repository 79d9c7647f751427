"""A segment made from end to end: read, upscaled, encoded and kept, chunk by chunk.

Shapes: f frames, H W pixels of the output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

import torch
from torch import Tensor

from pipeline.footage.encode import SegmentEncoder
from pipeline.footage.pictures import read_pictures
from pipeline.models.upscaler import Upscaler, UpscalerState
from pipeline.upscaling.plan import SegmentSpan
from pipeline.upscaling.work import Upscaling


@dataclass(frozen=True)
class Made:
    """What became of one segment: frames that it holds, frames that went through the model, its bytes, its time."""

    segment: int
    frames: int
    passed_frames: int
    bytes: int
    seconds: float

    def fields(self) -> dict[str, float]:
        """As fields of an event."""
        return dict(vars(self))


class SegmentMaker:
    """Makes one segment after another: reads its pictures, upscales and encodes them chunk by chunk, keeps it.

    It holds one chunk of pictures and the packets of one segment, however long the footage is.
    """

    def __init__(self, work: Upscaling, model: Upscaler) -> None:
        self._work, self._model = work, model
        self._behind: tuple[SegmentSpan, UpscalerState] | None = None

    def __call__(self, span: SegmentSpan) -> Made:
        """Make a segment. Raises `MediaError` if its pictures do not decode."""
        work, started = self._work, perf_counter()
        wish, key = work.plan.wish, work.keys[span.index]
        first, state = self._entered(span)
        encoder = SegmentEncoder(work.footage, wish.scale, work.encoding, span.frames)
        for frames, pictures in enlarged(work, self._model, range(first, span.frames.stop), state):
            if frames.start >= span.frames.start:
                encoder.add(pictures)
        data = encoder.finish().to_bytes()
        work.journal.keep_segment(key, data)
        if wish.is_sequential:
            before = work.plan.before(span)
            older = None if before is None else work.keys[before.index]
            work.journal.keep_state(key, state.snapshot(), older)
            self._behind = (span, state)
        passed = span.frames.stop - first
        return Made(span.index, len(span.frames), passed, len(data), perf_counter() - started)

    def _entered(self, span: SegmentSpan) -> tuple[int, UpscalerState]:
        """The frame to read from, and the model's state before it."""
        plan = self._work.plan
        if not plan.wish.is_sequential:
            return span.warm_up.start, start(self._work, self._model, span, span.warm_up.start)
        before, behind = plan.before(span), self._behind
        self._behind = None  # a state that goes on is no longer behind anything, should this segment fail
        if behind is not None and behind[0] == before:
            return span.frames.start, behind[1]
        while before is not None:
            saved = self._work.journal.state(self._work.keys[before.index])
            if saved is not None:
                state = start(self._work, self._model, span, before.frames.stop)
                state.restore(saved)
                return before.frames.stop, state
            before = plan.before(before)
        return span.scene_start, start(self._work, self._model, span, span.scene_start)


def start(work: Upscaling, model: Upscaler, span: SegmentSpan, first: int) -> UpscalerState:
    """The model's state before frame `first` of the scene of `span`, as if nothing had come before."""
    footage = work.footage
    chunk = (first - span.scene_start) // work.plan.grid.chunk_frames
    return model.start(work.plan.wish.scale, footage.height, footage.width, chunk)


def enlarged(work: Upscaling, model: Upscaler, frames: range, state: UpscalerState) -> Iterator[tuple[range, Tensor]]:
    """Chunk after chunk of `frames`, which begin on the grid: its frames, and float32 [f 3 H W] on the CPU."""
    device, size = next(model.parameters()).device, work.plan.grid.chunk_frames
    pictures = read_pictures(work.footage, frames)
    for first in frames[::size]:
        chunk = range(first, min(first + size, frames.stop))
        small = torch.stack(list(islice(pictures, len(chunk)))).to(device)
        yield chunk, model(small, state).cpu()
