"""Transparency as a grey picture that the upscaler enlarges next to the colours.

Shapes: f frames, h w pixels of a frame, H W pixels of a picture.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler, StreamState

_COLOUR, _ALPHA = "colour.", "alpha."


@dataclass(frozen=True)
class _Both:
    """The states of colour and alpha."""

    colour: StreamState
    alpha: StreamState

    def snapshot(self) -> dict[str, Tensor]:
        """Both snapshots under names of their own."""
        colour = {_COLOUR + name: value for name, value in self.colour.snapshot().items()}
        return colour | {_ALPHA + name: value for name, value in self.alpha.snapshot().items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Set both to a snapshot."""
        for state, prefix in ((self.colour, _COLOUR), (self.alpha, _ALPHA)):
            own = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
            state.restore(own)


class WithAlpha:
    """An upscaler of frames [f 4 h w], the last channel of which is transparency."""

    def __init__(self, model: StreamingUpscaler) -> None:
        self._model = model
        self.name, self.scales = model.name, model.scales
        self.chunk_frames, self.first_chunk_frames = model.chunk_frames, model.first_chunk_frames
        self.lookahead_frames = model.lookahead_frames

    @property
    def trained(self) -> bool:
        """As the upscaler."""
        return self._model.trained

    @property
    def history_frames(self) -> int:
        """As the upscaler."""
        return self._model.history_frames

    def fingerprint(self) -> str:
        """As the upscaler."""
        return self._model.fingerprint()

    def working_bytes(self, scale: int, height: int, width: int) -> int:
        """Of two states; passes follow each other."""
        return 2 * self._model.working_bytes(scale, height, width)

    def start(self, scale: int, height: int, width: int, first_frame: int = 0) -> Any:
        """The states before frame `first_frame` of a scene."""
        colour, alpha = (self._model.start(scale, height, width, first_frame) for _ in range(2))
        return _Both(colour, alpha)

    def push(self, frames: Tensor, state: Any) -> Tensor:
        """Pictures [f 4 H W] that become ready with frames [f 4 h w]."""
        grey = frames[:, 3:].expand(-1, 3, -1, -1).contiguous()
        return _joined(self._model.push(frames[:, :3].contiguous(), state.colour), self._model.push(grey, state.alpha))

    def finish(self, state: Any) -> Tensor:
        """The pictures of all remaining frames."""
        return _joined(self._model.finish(state.colour), self._model.finish(state.alpha))

    def to(self, device: torch.device | str) -> Self:
        """Move the weights, in place."""
        self._model.to(device)
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights."""
        return self._model.parameters()


def _joined(colour: Tensor, grey: Tensor) -> Tensor:
    return torch.cat([colour, grey.mean(dim=1, keepdim=True)], dim=1)
