"""The error of a warm-up that is shorter than the model's history."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler
from longtake.pipeline.upscaling.footage_segment import enlarged, start
from longtake.pipeline.upscaling.plan import Exact, FootageSegmentSpan
from longtake.pipeline.upscaling.work import Upscaling


@dataclass(frozen=True)
class BoundaryError:
    """The difference between a short and an exact warm-up, after the first border inside a scene, in 8-bit levels.

    Args:
        frames: the compared ones.
        most: the largest difference of a sample.
        mean: the mean difference of all samples.
    """

    frames: range
    most: float
    mean: float


def boundary_error(work: Upscaling, model: StreamingUpscaler) -> BoundaryError | None:
    """Upscale the first segment that starts inside a scene twice: warmed up as planned, and over the whole history.

    None if no segment starts inside a scene.
    """
    span = next((span for span in work.plan.segments if not span.opens_scene), None)
    if span is None:
        return None
    span, model = _shortened(work, span), work.suited(model)
    exact = span.scene_start + Exact().entry(work.plan.grid, span.frames.start - span.scene_start)
    both = [_pictures(work, model, span, first) for first in (span.warm_up.start, exact)]
    most, total, samples = 0.0, 0.0, 0
    for one, other in zip(*both, strict=True):
        difference = 255 * (one - other).abs()
        most = max(most, difference.max().item())
        total, samples = total + difference.sum(dtype=torch.float64).item(), samples + difference.numel()
    return BoundaryError(span.frames, most, total / samples)


def _shortened(work: Upscaling, span: FootageSegmentSpan) -> FootageSegmentSpan:
    """`span`, cut to the whole chunks that the model's history reaches."""
    grid = work.plan.grid
    count = grid.up(grid.history_frames) + grid.chunk_frames
    if count + grid.lookahead_frames >= len(span.frames):
        return span
    stop = span.frames.start + count
    return replace(span, frames=span.frames[:count], ahead=range(stop, stop + grid.lookahead_frames))


def _pictures(work: Upscaling, model: StreamingUpscaler, span: FootageSegmentSpan, first: int) -> Iterator[Tensor]:
    """The pictures [3 H W] of `span`, one by one, if the model begins with frame `first`."""
    for pictures in enlarged(work, model, span, start(work, model, span, first)):
        yield from pictures
