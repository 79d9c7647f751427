"""What a warm-up shorter than the model's history costs."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.upscaler import Upscaler
from pipeline.upscaling.plan import SegmentSpan
from pipeline.upscaling.segment import enlarged, start
from pipeline.upscaling.work import Upscaling


@dataclass(frozen=True)
class BoundaryError:
    """How far a short warm-up is from an exact one behind the first border that it crosses, in levels of 8 bits.

    Args:
        frames: those that were compared.
        most: the largest difference of a sample.
        mean: over all samples.
    """

    frames: range
    most: float
    mean: float


def boundary_error(work: Upscaling, model: Upscaler) -> BoundaryError | None:
    """Upscale what lies behind the first border between segments twice: warmed up as planned, and over the history.

    None where no segment is entered inside a scene.
    """
    plan = work.plan
    span = next((span for span in plan.segments if not span.opens_scene), None)
    if span is None:
        return None
    history = plan.grid.up(plan.grid.history_frames)
    entered = max(span.scene_start, span.frames.start - history)
    frames = span.frames[: history + plan.grid.chunk_frames]
    both = [_behind(work, model, span, range(first, frames.stop)) for first in (span.warm_up.start, entered)]
    most, total, samples = 0.0, 0.0, 0
    for one, other in zip(*both, strict=True):
        difference = 255 * (one - other).abs()
        most = max(most, difference.max().item())
        total, samples = total + difference.sum(dtype=torch.float64).item(), samples + difference.numel()
    return BoundaryError(frames, most, total / samples)


def _behind(work: Upscaling, model: Upscaler, span: SegmentSpan, frames: range) -> Iterator[Tensor]:
    """Enlarged chunks of `span`, where the model begins with the first of `frames`."""
    state = start(work, model, span, frames.start)
    return (x for chunk, x in enlarged(work, model, frames, state) if chunk.start >= span.frames.start)
