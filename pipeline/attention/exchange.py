"""How ranks share an attention site: the seam between a KV store and its peers.

A rank runs some tokens of every latent frame of a sharded stream, its columns, and all tokens of the other streams
through the model's blocks. At an attention site, `scatter` collects the keys that this rank keeps, and `attend` answers
its queries over the keys of all ranks. `Alone` is a site of one rank, which keeps everything. Ulysses and ring are in
`pipeline/parallel/`.

Shapes: b batch, h heads, l tokens of one stream, q queries, f latent frames, s tokens of each, d head or token width.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import QKV
from longtake.pipeline.attention.kernels import Partial
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.shares import Grid, Rows


class QueryBlock(NamedTuple):
    """Queries that know their rows, wherever they were sent from.

    Args:
        tensor: [b h q d], one stream after another.
        rows: which rows of each whole stream they are, in the same order.
    """

    tensor: Tensor
    rows: Mapping[str, Rows]


Over = Callable[[QueryBlock], Partial]
"""Queries -> their attention over the visible keys that this rank keeps."""


class Exchange(Protocol):
    """How one attention site is shared. `lengths` are those of whole streams, the same on every rank."""

    def layout(self, site: SiteLayout) -> SiteLayout:
        """The space that this rank needs for its share of `site`."""
        ...

    def scatter(self, streams: Mapping[str, QKV], lengths: Mapping[str, int]) -> dict[str, QKV]:
        """From this rank's tokens, all heads [b h l d]: the keys that it keeps, and the queries that go with them."""
        ...

    def attend(self, queries: Mapping[str, Tensor], lengths: Mapping[str, int], over: Over) -> dict[str, Tensor]:
        """The outputs of `queries` over the keys of all ranks: this rank's tokens, all heads [b h l d]."""
        ...

    def own(self, stream: str, page: Tensor) -> Tensor:
        """What this rank keeps of a whole page [b h l d] of keys or values."""
        ...

    def whole(self, stream: str, page: Tensor, length: int) -> Tensor:
        """The whole page of `length` tokens of which this rank keeps `page`; every rank must call it."""
        ...


class Sharing(Protocol):
    """How the ranks of a gang share a model's attention sites and tokens."""

    def at(self, site: SiteLayout) -> Exchange:
        """How the ranks share `site`."""
        ...

    def columns(self, stream: str, size: int) -> slice:
        """Which of the `size` tokens in each of a stream's frames this rank runs through the blocks."""
        ...

    def gather(self, stream: str, x: Tensor, size: int) -> Tensor:
        """Frames of `size` tokens [b f s d], of which this rank has some columns `x`; the same bits on every rank."""
        ...

    def total(self, stream: str, x: Tensor) -> Tensor:
        """The sum over all ranks of a sum `x` over this rank's columns of a stream; the same bits on every rank."""
        ...


class Alone(Exchange):
    """A site whose keys are all on this rank.

    Args:
        rows: which rows of a stream of that whole length this rank's queries are; all of them where None.
    """

    def __init__(self, rows: Callable[[str, int], Rows] | None = None) -> None:
        self._rows = rows

    @override
    def layout(self, site: SiteLayout) -> SiteLayout:
        return site

    @override
    def scatter(self, streams: Mapping[str, QKV], lengths: Mapping[str, int]) -> dict[str, QKV]:
        return dict(streams)

    @override
    def attend(self, queries: Mapping[str, Tensor], lengths: Mapping[str, int], over: Over) -> dict[str, Tensor]:
        sizes = {name: q.shape[2] for name, q in queries.items()}
        if self._rows is None:
            rows = {name: Grid(1, size).rows() for name, size in sizes.items()}
        else:
            rows = {name: self._rows(name, lengths[name]) for name in queries}
        tensors = list(queries.values())
        out, _lse = over(QueryBlock(tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=2), rows))
        return dict(zip(queries, torch.split(out, list(sizes.values()), dim=2), strict=True))

    @override
    def own(self, stream: str, page: Tensor) -> Tensor:
        return page

    @override
    def whole(self, stream: str, page: Tensor, length: int) -> Tensor:
        return page


class Unshared(Sharing):
    """One rank has all tokens and keys."""

    @override
    def at(self, site: SiteLayout) -> Exchange:
        return Alone()

    @override
    def columns(self, stream: str, size: int) -> slice:
        return slice(0, size)

    @override
    def gather(self, stream: str, x: Tensor, size: int) -> Tensor:
        return x

    @override
    def total(self, stream: str, x: Tensor) -> Tensor:
        return x


UNSHARED = Unshared()
