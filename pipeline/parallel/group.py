"""Ranks that send tensors to each other, and the two ways in which they cut and join a stream's tokens.

Shapes: b batch, h heads, f latent frames, s tokens of each, d head width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from longtake.pipeline.attention.shares import Grid, Share


class Group(Protocol):
    """Ranks that send tensors to each other, counted from 0 inside the group.

    Attributes:
        index: this rank.
        size: all ranks.
        sent_bytes: what this rank has sent so far.
    """

    index: int
    size: int
    sent_bytes: int

    def start(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor]) -> Callable[[], None]:
        """Start to send a tensor to each rank of `outgoing` and to fill the tensors of `incoming`.

        Between two ranks, tensors arrive in the order in which they were sent. Empty tensors do not travel.

        Returns:
            A function that waits until all of it is done.
        """
        ...

    def all_to_all(self, packed: Tensor, sizes: Sequence[int], arriving: Sequence[int]) -> Tensor:
        """Send consecutive pieces of a flat tensor, one to each rank and one to this one, as a single collective.

        Args:
            packed: of one dimension.
            sizes: elements of each piece.
            arriving: elements of the piece that arrives from each rank.

        Returns:
            What arrived, in the order of ranks, as one flat tensor.
        """
        ...


def exchange(group: Group, outgoing: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Send one tensor to every rank of the group, and receive one of the given shape from each."""
    received = [outgoing[0].new_empty(tuple(shape)) for shape in shapes]
    received[group.index] = outgoing[group.index]
    peers = [rank for rank in range(group.size) if rank != group.index]
    group.start({rank: outgoing[rank] for rank in peers}, {rank: received[rank] for rank in peers})()
    return received


def cut_columns(x: Tensor, grid: Grid, share: Share) -> Tensor:
    """A share of every frame: [b h (f s) d] of a whole grid -> [b h (f s) d] with fewer s."""
    columns = share.of(grid.size)
    frames = rearrange(x, "b h (f s) d -> b h f s d", f=grid.frames)[:, :, :, columns.start : columns.stop]
    return rearrange(frames, "b h f s d -> b h (f s) d")


def join_columns(parts: Sequence[Tensor], frames: int) -> Tensor:
    """Shares [b h (f s) d], in the order of ranks, joined inside every frame."""
    if frames == 1:
        return torch.cat(list(parts), dim=2)
    joined = torch.cat([rearrange(part, "b h (f s) d -> b h f s d", f=frames) for part in parts], dim=3)
    return rearrange(joined, "b h f s d -> b h (f s) d")
