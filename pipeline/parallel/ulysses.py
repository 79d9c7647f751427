"""Ulysses: every rank keeps and attends for its own heads (Jacobs et al., DeepSpeed Ulysses, arXiv 2309.14509).

Before attention each rank has its tokens with all heads; one exchange turns that into all tokens with its own heads,
another turns the answers back. Only the tokens of the pass travel: committed pages lie where their heads are. Where
heads do not divide, shares differ by one head; nothing is padded.

Shapes: b batch, h heads, l tokens of one stream, d head width.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from longtake.pipeline.attention.context import QKV
from longtake.pipeline.attention.exchange import Exchange, Over
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.shares import Grid, Share
from longtake.pipeline.parallel.group import Group, cut_columns, exchange, join_columns


class Ulysses:
    """Shares a site by heads; what holds for the tokens of those heads is up to `inner`.

    Args:
        site: as a whole.
        group: the ranks to share with.
        ring: which part of every sharded stream the group has as a whole.
        inner: how that part is shared with other groups.
        sharded: streams of which each rank has some tokens; of the others each rank has all.
    """

    def __init__(self, site: SiteLayout, group: Group, ring: Share, inner: Exchange, sharded: Collection[str]) -> None:
        self._group, self._ring, self._inner, self._sharded = group, ring, inner, sharded
        self._parts = [Share(rank, group.size) for rank in range(group.size)]
        self._heads = [part.of(site.num_heads) for part in self._parts]
        self._streams = {stream.name: stream for stream in site.streams}

    def layout(self, site: SiteLayout) -> SiteLayout:
        """See `Exchange.layout`."""
        own = self._group.index
        return self._inner.layout(replace(site, num_heads=len(self._heads[own]), heads=self._parts[own]))

    def scatter(self, streams: Mapping[str, QKV], lengths: Mapping[str, int]) -> dict[str, QKV]:
        """See `Exchange.scatter`."""
        moving = [(name, x) for name, qkv in streams.items() if name in self._sharded for x in qkv if x is not None]
        has_rows = [x is streams[name].q or self._streams[name].page_tokens > 0 for name, x in moving]
        grids = [self._grid(name, lengths[name]) for name, _ in moving]
        counts = [
            [grid.cut(part).tokens if some else 0 for grid, some in zip(grids, has_rows, strict=True)]
            for part in self._parts
        ]
        b, _, _, d = moving[0][1].shape
        outgoing = [torch.cat([_heads(x, heads) for _, x in moving], dim=2) for heads in self._heads]
        shapes = [(b, len(self._heads[self._group.index]), sum(count), d) for count in counts]
        pieces = [
            torch.split(tensor, count, dim=2)
            for tensor, count in zip(exchange(self._group, outgoing, shapes), counts, strict=True)
        ]
        columns = zip(zip(*pieces, strict=True), grids, strict=True)
        arrived = (join_columns(parts, grid.frames) for parts, grid in columns)
        kept = {name: self._kept(qkv, arrived if name in self._sharded else None) for name, qkv in streams.items()}
        return self._inner.scatter(kept, lengths)

    def attend(self, queries: Mapping[str, Tensor], lengths: Mapping[str, int], over: Over) -> dict[str, Tensor]:
        """See `Exchange.attend`."""
        answers = self._inner.attend(queries, lengths, over)
        grids = {name: self._grid(name, lengths[name]) for name in answers if name in self._sharded}

        def asked_by(part: Share) -> list[Tensor]:
            return [cut_columns(x, grids[name], part) if name in grids else x for name, x in answers.items()]

        own = asked_by(self._parts[self._group.index])
        outgoing = [torch.cat(asked_by(part), dim=2) for part in self._parts]
        b, _, l, d = outgoing[self._group.index].shape  # noqa: E741 (the legend's l)
        whole = torch.cat(exchange(self._group, outgoing, [(b, len(heads), l, d) for heads in self._heads]), dim=1)
        return dict(zip(answers, torch.split(whole, [x.shape[2] for x in own], dim=2), strict=True))

    def own(self, stream: str, page: Tensor) -> Tensor:
        """See `Exchange.own`."""
        return self._inner.own(stream, self._own_heads(page))

    def whole(self, stream: str, page: Tensor, length: int) -> Tensor:
        """See `Exchange.whole`."""
        rows = self._inner.whole(stream, page, length)
        b, _, l, d = rows.shape  # noqa: E741 (the legend's l)
        shapes = [(b, len(heads), l, d) for heads in self._heads]
        return torch.cat(exchange(self._group, [rows] * self._group.size, shapes), dim=1)

    def _kept(self, qkv: QKV, arrived: Iterator[Tensor] | None) -> QKV:
        """All tokens of this rank's heads: what has arrived, or else a slice of what is here."""
        own = (self._own_heads(x) for x in qkv if x is not None) if arrived is None else arrived
        return QKV(None if qkv.q is None else next(own), next(own), next(own))

    def _grid(self, name: str, length: int) -> Grid:
        """The part of a sharded stream that the group has as a whole."""
        return self._streams[name].grid(length).cut(self._ring)

    def _own_heads(self, x: Tensor) -> Tensor:
        return _heads(x, self._heads[self._group.index])


def _heads(x: Tensor, heads: range) -> Tensor:
    return x[:, heads.start : heads.stop]
