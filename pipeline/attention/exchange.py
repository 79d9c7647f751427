"""How the ranks of a pass share an attention site: the seam between a KV store and its peers.

A rank runs some tokens of every latent frame of a sharded stream, its columns, and all tokens of the other streams
through the model's blocks. At an attention site, `scatter` brings together what this rank keeps, and `attend` answers
its queries over what all ranks keep. One rank alone keeps everything: `Alone`, `ONE_RANK`. Ulysses and ring are in
`pipeline/parallel/`.

Shapes: b batch, h heads, l tokens of one stream, q queries, f latent frames, s tokens of each, d head or token width.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from longtake.pipeline.attention.context import QKV
from longtake.pipeline.attention.kernels import Partial
from longtake.pipeline.attention.kv_plan import SiteLayout

Over = Callable[[Tensor], Partial]
"""Queries [b h q d] -> their attention over the visible keys that this rank keeps."""

Velocities = Mapping[str, Tensor]
"""What a denoiser predicts, by stream."""


class Exchange(Protocol):
    """How one attention site is shared. `lengths` are those of whole streams, the same on every rank."""

    def layout(self, site: SiteLayout) -> SiteLayout:
        """The room that this rank needs for its share of `site`."""
        ...

    def scatter(self, streams: Mapping[str, QKV], lengths: Mapping[str, int]) -> dict[str, QKV]:
        """From this rank's tokens, all heads [b h l d]: the keys that it keeps, and the queries that go with them."""
        ...

    def attend(self, queries: Mapping[str, Tensor], lengths: Mapping[str, int], over: Over) -> dict[str, Tensor]:
        """The answers to `queries` from the keys of all ranks: this rank's tokens, all heads [b h l d]."""
        ...

    def own(self, stream: str, page: Tensor) -> Tensor:
        """What this rank keeps of a whole page [b h l d] of keys or values."""
        ...

    def whole(self, stream: str, page: Tensor, length: int) -> Tensor:
        """The whole page of `length` tokens of which this rank keeps `page`; every rank must ask."""
        ...


class Passes(Protocol):
    """Which guidance passes are run here, and how the velocities of the others arrive."""

    def branches(self, branches: Iterable[str]) -> list[str]:
        """Those of `branches` that are run here. Raises `SpecError` if there are fewer than ranks to run them."""
        ...

    def all_branches(self, own: Mapping[str, Velocities], branches: Iterable[str]) -> dict[str, Velocities]:
        """The velocities of all `branches`, of which `own` were run here."""
        ...


class Parallel(Passes, Protocol):
    """How a gang shares a denoiser's passes."""

    def at(self, site: SiteLayout) -> Exchange:
        """How its ranks share `site`."""
        ...

    def columns(self, stream: str, size: int) -> slice:
        """Which of the `size` tokens in each of a stream's frames this rank runs through the blocks."""
        ...

    def gather(self, stream: str, x: Tensor, size: int) -> Tensor:
        """Frames of `size` tokens [b f s d], of which this rank has some columns `x`; the same bits on every rank."""
        ...


class Alone:
    """A site that this rank shares with nobody, or needs nobody else for."""

    def layout(self, site: SiteLayout) -> SiteLayout:
        """See `Exchange.layout`."""
        return site

    def scatter(self, streams: Mapping[str, QKV], _: Mapping[str, int]) -> dict[str, QKV]:
        """See `Exchange.scatter`."""
        return dict(streams)

    def attend(self, queries: Mapping[str, Tensor], _: Mapping[str, int], over: Over) -> dict[str, Tensor]:
        """See `Exchange.attend`."""
        out, _lse = over(torch.cat(list(queries.values()), dim=2))
        sizes = [q.shape[2] for q in queries.values()]
        return dict(zip(queries, torch.split(out, sizes, dim=2), strict=True))

    def own(self, _: str, page: Tensor) -> Tensor:
        """See `Exchange.own`."""
        return page

    def whole(self, _: str, page: Tensor, _length: int) -> Tensor:
        """See `Exchange.whole`."""
        return page


class OneRank:
    """A gang of one."""

    def at(self, _: SiteLayout) -> Exchange:
        """See `Parallel.at`."""
        return Alone()

    def columns(self, _: str, size: int) -> slice:
        """See `Parallel.columns`."""
        return slice(0, size)

    def gather(self, _: str, x: Tensor, _size: int) -> Tensor:
        """See `Parallel.gather`."""
        return x

    def branches(self, branches: Iterable[str]) -> list[str]:
        """See `Passes.branches`."""
        return list(branches)

    def all_branches(self, own: Mapping[str, Velocities], _: Iterable[str]) -> dict[str, Velocities]:
        """See `Passes.all_branches`."""
        return dict(own)


ONE_RANK = OneRank()
