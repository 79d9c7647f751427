"""The six acts of the pipeline: each is a stage that is timed, observed and journalled.

The same builders serve one process (`pipeline/film.py`) and Ray actors.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.stages.encode import EncodeStage
from longtake.pipeline.stages.publish import PublishOptions, PublishStage
from longtake.pipeline.stages.upscale import UpscaleStage, frames_ahead
from longtake.pipeline.take import Take
from longtake.pipeline.values import FrameChunk

StageT = TypeVar("StageT", bound=Callable[..., Any])


class Act(Generic[StageT]):
    """A stage that reports `NAME.chunk` with its seconds, after its result is in the journal."""

    def __init__(self, name: str, stage: StageT, observer: Observer, keep: Callable[[Any], None] | None = None) -> None:
        self.name, self.stage, self._observer, self._keep = name, stage, observer, keep

    def __call__(self, first: Any, *rest: Any) -> Any:
        """The stage's result for a chunk; `first` is its span, or a value that holds the span."""
        span: ChunkSpan = first if isinstance(first, ChunkSpan) else first.span
        started = perf_counter()
        value = self.stage(first, *rest)
        if self._keep is not None:
            self._keep(value)
        seconds = perf_counter() - started
        self._observer.event(f"{self.name}.chunk", chunk=span.index, scene=span.scene, seconds=seconds)
        return value


def embed(take: Take, observer: Observer) -> Act[EmbedStage]:
    """Chunk -> conditioning: a prompt for each guidance branch, and the latents that are given."""
    loras = take.loras.attach(text=True)
    return Act("embed", EmbedStage(take.model.text, take.plan, take.given, loras, take.prompts(loras)), observer)


def denoise(take: Take, observer: Observer, parallel: Parallel = ONE_RANK) -> Act[DenoiseStage]:
    """Chunk, conditioning -> latents, journalled."""
    loras = take.loras.attach(text=False)
    stage = DenoiseStage(take.model, take.plan, take.finished, parallel, loras, take.journal.keeping)
    return Act("denoise", stage, observer)


def denoise_along(take: Take, parallel: Parallel) -> Act[DenoiseStage]:
    """Chunk, conditioning -> latents, on the other ranks of a gang. Only the first rank journals and reports them."""
    stage = DenoiseStage(take.model, take.plan, take.finished, parallel, take.loras.attach(text=False))
    return Act("denoise", stage, SILENT)


def decode(take: Take, observer: Observer) -> Act[DecodeStage]:
    """Latents of a chunk, and of those that its frames depend on -> frames, sound."""
    ahead = None if take.upscaler is None else partial(frames_ahead, take.upscaler.grid, take.plan)
    given = take.given
    stage = DecodeStage(take.model, take.plan, take.finished, given.sound, ahead, given.picture)
    return Act("decode", stage, observer)


def upscale(take: Take, observer: Observer) -> Callable[[FrameChunk], FrameChunk]:
    """Frames -> larger frames, or the same frames if the storyboard does not ask for an upscale."""
    if take.upscaler is None:
        return as_they_are
    upscaler = take.upscaler.model.to(take.model.device)
    return Act("upscale", UpscaleStage(take.model, upscaler, take.plan, take.finished, take.given.picture), observer)


def as_they_are(frames: FrameChunk) -> FrameChunk:
    """`frames` themselves: the upscale of a film that is shown at its own size."""
    return frames


def encode(take: Take, observer: Observer) -> Act[EncodeStage]:
    """Frames, sound -> segment, journalled."""
    storyboard = take.plan.storyboard
    stage = EncodeStage(storyboard.video.fps, storyboard.output.quality)
    return Act("encode", stage, observer, take.journal.keep_segment)


def publish(take: Take, observer: Observer) -> Act[PublishStage]:
    """Segment -> the film, which grows. The stage is a context manager."""
    scratch = Path(take.store.url_of("journal/scratch")) if take.store.is_local else None
    stage = PublishStage(take.store, PublishOptions.of(take.plan, take.model.credit, scratch))
    return Act("publish", stage, observer)
