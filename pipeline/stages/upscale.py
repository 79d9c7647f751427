"""Upscale: frames become larger frames, chunk by chunk, as if the whole film were upscaled at once."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.models.upscaler import Upscaler, UpscalerState
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.stages.denoise import FinishedLatents, find
from longtake.pipeline.values import FrameChunk


class UpscaleStage:
    """Enlarges chunks, carrying the upscaler's state from one to the next and starting afresh at a cut. After a gap it
    first decodes and enlarges as many finished chunks again as the upscaler looks back."""

    def __init__(self, model: FilmModel, upscaler: Upscaler, plan: FilmPlan, finished: FinishedLatents) -> None:
        self._model, self._upscaler, self._plan, self._finished = model, upscaler, plan, finished
        self._state: UpscalerState | None = None
        self._next: int | None = None

    def __call__(self, frames: FrameChunk) -> FrameChunk:
        """The chunk's frames, larger."""
        span = frames.span
        if self._state is None or span.index == span.section or span.index != self._next:
            self._state = self._state_before(span)
        self._next = span.index + 1
        return FrameChunk(span, self._enlarged(frames, self._state))

    def _state_before(self, span: ChunkSpan) -> UpscalerState:
        """What an undisturbed run remembers before this chunk: nothing where its section begins."""
        history = self._plan.frame_history(span, span.frames.start - self._upscaler.history_frames)
        first = [*history, span][0]
        frames_before = first.frames.start - self._plan.span(span.section).frames.start
        video, storyboard = self._plan.storyboard.video, self._plan.storyboard.output
        assert storyboard.upscale is not None, "a film that is not upscaled has no such stage"
        state = self._upscaler.start(storyboard.upscale, video.height, video.width, first_frame=frames_before)
        decode = DecodeStage(self._model, self._plan, self._finished)
        for chunk in history:
            seen = (chunk, *self._plan.decode_ahead(chunk))
            self._enlarged(decode(*(find(self._finished, part) for part in seen))[0], state)
        return state

    def _enlarged(self, frames: FrameChunk, state: UpscalerState) -> Tensor:
        """Frames [f H W 3] of a chunk, and `state` advanced past it."""
        small = rearrange(frames.frames, "f h w c -> f c h w").float().to(self._model.device) / 255
        large = [self._upscaler(part, state) for part in torch.split(small, self._upscaler.chunk_frames)]
        return rearrange(torch.cat(large) * 255, "f c h w -> f h w c").round().to(torch.uint8).contiguous().cpu()


def check_chunks(upscaler: Upscaler, chunks: Sequence[ChunkSpan]) -> None:
    """Raise `SpecError` where a film's chunks are not made of whole chunks of the upscaler's."""
    for chunk in chunks:
        if len(chunk.frames) % upscaler.chunk_frames and not chunk.ends_section:
            raise SpecError(
                f"output.upscale: chunk {chunk.index} has {len(chunk.frames)} frames, and {upscaler.config.name} takes"
                f" {upscaler.chunk_frames} at a time; use `longtake upscale` on the finished film"
            )
