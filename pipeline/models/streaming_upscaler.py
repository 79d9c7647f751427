"""The interface of an upscaler: low-resolution frames go in as they come, pictures come out once they are ready.

`longtake upscale` and the upscale stage of a storyboard know upscalers only by this interface.

Shapes: f frames, h w pixels of a frame, H W pixels of a picture.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn


class StreamState(Protocol):
    """The memory of a `StreamingUpscaler` within one scene. Its size is constant after the first chunks."""

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the whole state, by name."""
        ...

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Set the state to a `snapshot` of the same model, scale and size."""
        ...


class StreamingUpscaler(Protocol):
    """Enlarges the frames of a scene as they come.

    The pictures of a scene become ready in chunks: first those of `first_chunk_frames`, then those of `chunk_frames`
    at a time. A chunk is ready once the `lookahead_frames` after it are known. The results do not depend on how frames
    are split into pushes. A stream may begin at any multiple of `chunk_frames`; after `history_frames` its pictures
    equal those of a stream from the scene's start. If the first chunk is longer than the others, that holds up to the
    last bit only when the history begins after the first chunk, because a pass over more frames rounds differently.

    Attributes:
        name: shown to users.
        scales: supported enlargement factors.
    """

    name: str
    scales: tuple[int, ...]
    chunk_frames: int
    first_chunk_frames: int
    lookahead_frames: int

    @property
    def trained(self) -> bool:
        """Whether the weights were trained. Random weights only show that the pipeline works."""
        ...

    @property
    def history_frames(self) -> int:
        """How many frames before its chunk a picture can depend on."""
        ...

    def fingerprint(self) -> str:
        """A hash of everything, other than the frames, that decides the pictures."""
        ...

    def working_bytes(self, scale: int, height: int, width: int) -> int:
        """An upper estimate of the memory of a state and a pass over one chunk, without weights and pictures."""
        ...

    def start(self, scale: int, height: int, width: int, first_frame: int = 0) -> Any:
        """The state before frame `first_frame` of a scene, a multiple of `chunk_frames`, without any past.

        Raises:
            SpecError: the model does not support `scale`, or `first_frame` is off the grid.
        """
        ...

    def push(self, frames: Tensor, state: Any) -> Tensor:
        """The pictures [f 3 H W] in 0..1 that become ready with the next frames, float32 [f 3 h w] in 0..1."""
        ...

    def finish(self, state: Any) -> Tensor:
        """The pictures of all remaining frames at the end of a scene. The state must not be used afterwards."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to `device`, in place."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights."""
        ...


@dataclass(frozen=True)
class ChunkGrid:
    """How an upscaler proceeds through a scene, on ints; see `StreamingUpscaler`. All frames count from the scene's
    first one.

    Args:
        chunk_frames: pictures that become ready together.
        history_frames: how far back a picture can look.
        first_chunk_frames: pictures that become ready first in a scene; None: `chunk_frames`.
        lookahead_frames: frames after a chunk that its pictures depend on.
    """

    chunk_frames: int
    history_frames: int
    first_chunk_frames: int | None = None
    lookahead_frames: int = 0

    def up(self, frames: int) -> int:
        """`frames`, rounded up to whole chunks."""
        return -(-frames // self.chunk_frames) * self.chunk_frames

    def border(self, frames: int) -> int:
        """The smallest number of pictures, `frames` or more, that become ready as whole chunks from the start."""
        first = self.first_chunk_frames or self.chunk_frames
        return first + self.up(max(0, frames - first))

    def entry(self, start: int, warm_up: int) -> int:
        """The last frame at which a stream can begin that is warmed up over `warm_up` frames before `start`."""
        return max(0, (start - warm_up) // self.chunk_frames * self.chunk_frames)

    def needed(self, stop: int) -> int:
        """How many frames must be known before all pictures before frame `stop` are ready."""
        return self.border(stop) + self.lookahead_frames if stop > 0 else 0

    def replay(self, start: int) -> int:
        """The last frame at which a stream can begin whose pictures from frame `start` on equal, up to the last bit,
        those of a stream from the scene's start."""
        first = self.first_chunk_frames or self.chunk_frames
        if start < first:
            return 0
        chunk = first + (start - first) // self.chunk_frames * self.chunk_frames
        return self.entry(chunk, self.history_frames + (self.up(first) if first > self.chunk_frames else 0))


def grid_of(model: StreamingUpscaler) -> ChunkGrid:
    """The grid of `model`."""
    return ChunkGrid(model.chunk_frames, model.history_frames, model.first_chunk_frames, model.lookahead_frames)
