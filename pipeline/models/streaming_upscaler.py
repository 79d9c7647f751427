"""What the upscaling of footage asks of a model: frames go in, larger ones come out when they are ready.

Shapes: f frames, h w pixels of what goes in, H W of what comes out.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn


class StreamState(Protocol):
    """What a `StreamingUpscaler` remembers of one scene; as large after a million frames as after its first chunks."""

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of everything that is remembered, by name."""
        ...

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Put back what `snapshot` of a state of the same model, scale and size gave."""
        ...


class StreamingUpscaler(Protocol):
    """Enlarges the frames of a scene as they come.

    The pictures of a scene become ready in chunks: those of its first `first_chunk_frames`, then of `chunk_frames` at
    a time, each chunk once the `lookahead_frames` behind it are known. However frames are cut into pushes, and wherever
    a stream begins on the grid of `chunk_frames`, nothing differs once it has seen `history_frames`.

    Attributes:
        name: as people know it.
        scales: by how much it can enlarge.
    """

    name: str
    scales: tuple[int, ...]
    chunk_frames: int
    first_chunk_frames: int
    lookahead_frames: int

    @property
    def trained(self) -> bool:
        """Whether the weights were trained, or are random and only show that the road works."""
        ...

    @property
    def history_frames(self) -> int:
        """No picture depends on frames older than this many before its chunk."""
        ...

    def fingerprint(self) -> str:
        """A hash of all that decides what comes out, beside the frames."""
        ...

    def working_bytes(self, scale: int, height: int, width: int) -> int:
        """About what a state and a pass over a chunk hold together, at most, beside weights and pictures."""
        ...

    def start(self, scale: int, height: int, width: int, first_frame: int = 0) -> Any:
        """The state before frame `first_frame` of a scene, a multiple of `chunk_frames`, as if nothing came before.

        Raises:
            SpecError: it cannot enlarge by `scale`, or not begin there.
        """
        ...

    def push(self, frames: Tensor, state: Any) -> Tensor:
        """The pictures [f 3 H W] in 0..1 that the scene's next frames, float32 [f 3 h w] in 0..1, make ready."""
        ...

    def finish(self, state: Any) -> Tensor:
        """The pictures of all frames that still wait, where the scene ends; the state is spent."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""
        ...
