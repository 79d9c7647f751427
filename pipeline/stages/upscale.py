"""Upscale: frames become larger pictures, chunk by chunk, with the bits of one pass over the whole film.

Shapes: f frames, h w pixels of a frame, H W pixels of a picture.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import SpecError
from longtake.pipeline.guards import guard, precision
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.models.streaming_upscaler import ChunkGrid, StreamingUpscaler, grid_of
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.stages.denoise import FinishedLatents, find
from longtake.pipeline.values import FrameChunk


class UpscaleStage:
    """Upscales chunks. It carries the upscaler's state from one chunk to the next and starts afresh at a cut. After a
    gap it first decodes and upscales finished chunks again, as far back as the upscaler looks.

    A chunk comes with the frames that the upscaler looks ahead to. Pictures that are ready early wait for their chunk.

    Args:
        model: decodes the finished chunks.
        upscaler: on the device where it runs.
        plan: of the film.
        finished: where to find latents of earlier chunks.
        given_picture: see `DecodeStage`.
    """

    def __init__(
        self,
        model: FilmModel,
        upscaler: StreamingUpscaler,
        plan: FilmPlan,
        finished: FinishedLatents,
        given_picture: Callable[[range, Tensor], Tensor] | None = None,
    ) -> None:
        self._model, self._upscaler, self._plan, self._finished = model, upscaler, plan, finished
        self._given_picture = given_picture
        self._grid = grid_of(upscaler)
        self._device = next(upscaler.parameters()).device
        self._ready: list[Tensor] = []
        self._is_finished = False
        self._next: int | None = None

    @torch.no_grad()
    def __call__(self, frames: FrameChunk) -> FrameChunk:
        """The chunk's pictures."""
        span = frames.span
        if span.index == span.section or span.index != self._next:
            self._stand_before(span)
        self._push(frames.known, span.frames.start)
        last = [span, *upscale_ahead(self._grid, self._plan, span)][-1]
        if last.ends_section and self._frame == last.frames.stop and not self._is_finished:
            self._keep(self._upscaler.finish(self._state))
            self._is_finished = True
        pictures = self._take(len(span.frames))
        self._next = span.index + 1
        return FrameChunk(span, pictures)

    def _stand_before(self, span: ChunkSpan) -> None:
        """Restore the state of an undisturbed run before this chunk: the empty one where its section begins."""
        video, scale = self._plan.storyboard.video, self._plan.storyboard.output.upscale
        assert scale is not None, "a film without `output.upscale` has no upscale stage"
        first = replay_start(self._grid, self._plan, span)
        section = self._plan.span(span.section).frames.start
        self._state = self._upscaler.start(scale, video.height, video.width, first_frame=first - section)
        self._frame = self._picture = first  # the next frame to push, the next picture to become ready
        self._wanted, self._ready, self._is_finished = span.frames.start, [], False
        decode = DecodeStage(self._model, self._plan, self._finished, given_picture=self._given_picture)
        for chunk in self._plan.frame_history(span, first):
            seen = (chunk, *self._plan.decode_ahead(chunk))
            frames, _ = decode(*(find(self._finished, part) for part in seen))
            self._push(frames.frames, chunk.frames.start)

    def _push(self, frames: Tensor, first: int) -> None:
        """Upscale those of the frames [f h w 3], numbered from `first`, that are new."""
        new = frames[max(0, self._frame - first) :]
        self._frame += len(new)
        # One chunk at a time, so that only one chunk's pictures are held in float32.
        for part in torch.split(new, self._grid.chunk_frames):
            small = rearrange(part, "f h w c -> f c h w").to(self._device).float() / 255
            self._keep(self._upscaler.push(small, self._state))

    def _keep(self, pictures: Tensor) -> None:
        """Keep those of the pictures [f 3 H W] in 0..1 that have not been returned, as uint8."""
        dtype = precision(self._upscaler)
        guard("upscale", "frames of the picture", pictures, f"frames from {self._picture} on", dtype)
        new = pictures[max(0, self._wanted - self._picture) :]
        self._picture += len(pictures)
        self._ready.append(rearrange(new * 255, "f c h w -> f h w c").round().to(torch.uint8).contiguous().cpu())

    def _take(self, count: int) -> Tensor:
        """Remove the first `count` pictures of those that are ready."""
        ready = torch.cat(self._ready)
        self._wanted += count
        self._ready = [ready[count:].clone()]
        return ready[:count]


def check_upscaler(upscaler: StreamingUpscaler, scale: int) -> None:
    """Raise `SpecError` if the upscaler does not support `scale`."""
    if scale not in upscaler.scales:
        supported = " or ".join(map(str, upscaler.scales))
        raise SpecError(
            f"output.upscale is {scale}; {upscaler.name} enlarges by {supported}; use output.upscale: {supported},"
            " or another output.upscaler"
        )


def decoded_with(plan: FilmPlan, grid: ChunkGrid | None, span: ChunkSpan) -> list[ChunkSpan]:
    """The chunk, and those after it whose latents its pictures depend on.

    Args:
        grid: of the upscaler, if there is one.
    """
    seen = [span] if grid is None else [span, *upscale_ahead(grid, plan, span)]
    return [*seen, *plan.decode_ahead(seen[-1])]


def frames_ahead(grid: ChunkGrid, plan: FilmPlan, span: ChunkSpan) -> range:
    """The frames right after this chunk that its pictures depend on, within the section."""
    start, last = plan.span(span.section).frames.start, [span, *upscale_ahead(grid, plan, span)][-1]
    stop = start + grid.needed(span.frames.stop - start)
    return range(span.frames.stop, max(span.frames.stop, min(stop, last.frames.stop)))


def upscale_ahead(grid: ChunkGrid, plan: FilmPlan, span: ChunkSpan) -> list[ChunkSpan]:
    """The chunks right after this one whose frames its pictures depend on, within the section."""
    start, last = plan.span(span.section).frames.start, span
    stop = start + grid.needed(span.frames.stop - start)
    chunks: list[ChunkSpan] = []
    while last.frames.stop < stop and not last.ends_section:
        last = plan.span(last.index + 1)
        chunks.append(last)
    return chunks


def replay_start(grid: ChunkGrid, plan: FilmPlan, span: ChunkSpan) -> int:
    """The frame of the film from which frames are upscaled again, before the stage can start with this chunk."""
    start = plan.span(span.section).frames.start
    return start + grid.replay(span.frames.start - start)
