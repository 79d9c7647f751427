"""Making one footage segment: read, upscale, encode and keep it, chunk by chunk.

Shapes: f frames, H W pixels of the output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from longtake.pipeline.footage.encode import FootageSegmentEncoder
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.guards import guard, precision
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler, StreamState
from longtake.pipeline.upscaling.plan import FootageSegmentSpan
from longtake.pipeline.upscaling.work import Upscaling


@dataclass(frozen=True)
class FootageSegmentReport:
    """A finished segment: its frames, the frames that went through the model, its bytes, its time."""

    segment: int
    frames: int
    passed_frames: int
    bytes: int
    seconds: float

    def fields(self) -> dict[str, float]:
        """The fields of its event."""
        return dict(vars(self))


class Position(NamedTuple):
    """The model's place in the footage: its state, the next frame to push, the next picture to become ready."""

    state: StreamState
    frame: int
    picture: int


class FootageSegmentMaker:
    """Makes one segment after another: reads its pictures, upscales and encodes them chunk by chunk, keeps it.

    It holds one chunk of pictures and the packets of one segment, so memory does not grow with the footage.
    """

    def __init__(self, work: Upscaling, model: StreamingUpscaler) -> None:
        self._work, self._model = work, work.suited(model)
        self._behind: tuple[FootageSegmentSpan, StreamState] | None = None

    def __call__(self, span: FootageSegmentSpan) -> FootageSegmentReport:
        """Make a segment. Raises `MediaError` if its pictures cannot be decoded."""
        work, started = self._work, perf_counter()
        spec, key = work.plan.spec, work.keys[span.index]
        position = self._entered(span)
        encoder = FootageSegmentEncoder(work.footage, spec.scale, work.encoding, span.frames)
        for pictures in enlarged(work, self._model, span, position):
            encoder.add(pictures)
        data = encoder.finish().to_bytes()
        work.journal.keep_segment(key, data)
        if spec.is_sequential:
            before = work.plan.before(span)
            older = None if before is None else work.keys[before.index]
            work.journal.keep_state(key, position.state.snapshot(), older)
            self._behind = (span, position.state)
        passed = span.ahead.stop - position.frame
        return FootageSegmentReport(span.index, len(span.frames), passed, len(data), perf_counter() - started)

    def _entered(self, span: FootageSegmentSpan) -> Position:
        """The model's place before this segment."""
        plan = self._work.plan
        if not plan.spec.is_sequential:
            return start(self._work, self._model, span, span.warm_up.start)
        before, behind = plan.before(span), self._behind
        self._behind = None  # the state is about to change, and must not be used again if this segment fails
        if before is not None and behind is not None and behind[0] == before:
            return Position(behind[1], before.ahead.stop, span.frames.start)
        while before is not None:
            saved = self._work.journal.state(self._work.keys[before.index])
            if saved is not None:
                state = start(self._work, self._model, span, span.scene_start).state
                state.restore(saved)
                return Position(state, before.ahead.stop, before.frames.stop)
            before = plan.before(before)
        return start(self._work, self._model, span, span.scene_start)


def start(work: Upscaling, model: StreamingUpscaler, span: FootageSegmentSpan, first: int) -> Position:
    """The model's place before frame `first` of the scene of `span`, without any past."""
    footage = work.footage
    state = model.start(work.plan.spec.scale, footage.height, footage.width, first - span.scene_start)
    return Position(state, first, first)


def enlarged(
    work: Upscaling, model: StreamingUpscaler, span: FootageSegmentSpan, position: Position
) -> Iterator[Tensor]:
    """The pictures of `span` as they become ready, float32 [f 3 H W] on the CPU. The model continues at `position`.

    With transparency they are [f 4 H W].
    """
    state, first, number = position
    dtype = precision(model)
    for ready in _ready(work, model, state, range(first, span.ahead.stop), span.ends_scene):
        guard("upscale", "frames of the picture", ready, f"frames from {number} on", dtype)
        own = ready[max(0, span.frames.start - number) : span.frames.stop - number]
        number += len(ready)
        if len(own):
            yield own.cpu()


def _ready(
    work: Upscaling, model: StreamingUpscaler, state: StreamState, frames: range, is_last: bool
) -> Iterator[Tensor]:
    """The pictures that `frames` make ready, and, if they end the scene, all remaining ones."""
    device, size = next(model.parameters()).device, work.plan.grid.chunk_frames
    pictures = read_pictures(work.footage, frames, alpha=work.has_alpha)
    while read := list(islice(pictures, size)):
        yield model.push(torch.stack(read).to(device), state)
    if is_last:
        yield model.finish(state)
