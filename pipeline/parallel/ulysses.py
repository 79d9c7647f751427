"""Ulysses: every rank keeps and attends for its own heads (Jacobs et al., DeepSpeed Ulysses, arXiv 2309.14509).

Before attention each rank has its tokens with all heads; one exchange turns that into all tokens with its own heads,
another turns the outputs back. Only the tokens of the pass travel: committed pages stay on the rank of their heads.
Where heads do not divide, shares differ by one head; nothing is padded.

Shapes: b batch, h heads, l tokens of one stream, d head width.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import QKV
from longtake.pipeline.attention.exchange import Exchange, Over
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.shares import Grid, Share
from longtake.pipeline.parallel.group import Group, cut_columns, exchange, join_columns


class Ulysses(Exchange):
    """Shares a site by heads; how the tokens of those heads are shared is up to `inner`.

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

    @override
    def layout(self, site: SiteLayout) -> SiteLayout:
        own = self._group.index
        return self._inner.layout(replace(site, num_heads=len(self._heads[own]), heads=self._parts[own]))

    @override
    def scatter(self, streams: Mapping[str, QKV], lengths: Mapping[str, int]) -> dict[str, QKV]:
        moving = {name: qkv for name, qkv in streams.items() if name in self._sharded}
        arrived = self._all_tokens(moving, lengths) if moving else {}
        kept = {name: arrived[name] if name in arrived else self._own_heads_of(qkv) for name, qkv in streams.items()}
        return self._inner.scatter(kept, lengths)

    @override
    def attend(self, queries: Mapping[str, Tensor], lengths: Mapping[str, int], over: Over) -> dict[str, Tensor]:
        attended = self._inner.attend(queries, lengths, over)  # all tokens, this rank's heads
        grids = {name: self._grid(name, lengths[name]) for name in attended if name in self._sharded}

        def rows(name: str, part: Share) -> int:
            return grids[name].cut(part).tokens if name in grids else attended[name].shape[2]

        # Each rank gets its tokens with these heads, all streams in one piece. Heads are joined in rank order.
        b, own, _, d = next(iter(attended.values())).shape
        sizes = [b * own * d * sum(rows(name, part) for name in attended) for part in self._parts]
        mine = {name: rows(name, self._parts[self._group.index]) for name in attended}
        arriving = [b * len(heads) * d * sum(mine.values()) for heads in self._heads]
        flat = self._group.all_to_all(self._by_row(attended, grids), sizes, arriving)
        if b == 1:
            whole = flat.view(1, sum(map(len, self._heads)), sum(mine.values()), d)
        else:
            pieces = zip(torch.split(flat, arriving), self._heads, strict=True)
            whole = torch.cat([x.view(b, len(heads), sum(mine.values()), d) for x, heads in pieces], dim=1)
        return dict(zip(attended, torch.split(whole, list(mine.values()), dim=2), strict=True))

    @override
    def own(self, stream: str, page: Tensor) -> Tensor:
        return self._inner.own(stream, self._own_heads(page))

    @override
    def whole(self, stream: str, page: Tensor, length: int) -> Tensor:
        rows = self._inner.whole(stream, page, length)
        b, _, l, d = rows.shape  # noqa: E741 (the legend's l)
        shapes = [(b, len(heads), l, d) for heads in self._heads]
        return torch.cat(exchange(self._group, [rows] * self._group.size, shapes), dim=1)

    def _all_tokens(self, streams: Mapping[str, QKV], lengths: Mapping[str, int]) -> dict[str, QKV]:
        """From this rank's tokens with all heads to all tokens with this rank's heads."""
        # Queries, keys and values of all streams travel as one message per rank, one tensor behind another along l.
        sent = [(name, part) for name, qkv in streams.items() for part in _parts_of(qkv)]
        tensors = [getattr(streams[name], part) for name, part in sent]
        counts = [[self._count(name, part, lengths, share) for name, part in sent] for share in self._parts]
        b, _, _, d = tensors[0].shape
        whole, own = torch.cat(tensors, dim=2), len(self._heads[self._group.index])
        packed = whole.flatten() if b == 1 else torch.cat([_heads(whole, heads).flatten() for heads in self._heads])
        sizes = [b * len(heads) * whole.shape[2] * d for heads in self._heads]
        arriving = [b * own * sum(count) * d for count in counts]
        flat = self._group.all_to_all(packed, sizes, arriving)
        # By rank and tensor; then each tensor's columns from all ranks are joined inside every frame.
        pieces = [
            torch.split(piece.view(b, own, sum(count), d), count, dim=2)
            for piece, count in zip(torch.split(flat, arriving), counts, strict=True)
        ]
        joined: dict[tuple[str, str], Tensor] = {
            key: join_columns(parts, self._grid(key[0], lengths[key[0]]).frames)
            for key, parts in zip(sent, zip(*pieces, strict=True), strict=True)
        }
        return {name: QKV(joined.get((name, "q")), joined[name, "k"], joined[name, "v"]) for name in streams}

    def _by_row(self, attended: Mapping[str, Tensor], grids: Mapping[str, Grid]) -> Tensor:
        """This rank's heads of all tokens [b h l d] as one flat tensor: what each rank gets, one after another."""
        if len(attended) == len(grids) == 1:
            ((name, x),) = attended.items()
            frames, size = grids[name]
            if x.shape[0] == 1 and size % self._group.size == 0:  # one copy
                return rearrange(x, "1 h (f p s) d -> (p h f s d)", f=frames, p=self._group.size)
        return torch.cat(
            [
                torch.cat(
                    [cut_columns(x, grids[n], part) if n in grids else x for n, x in attended.items()], 2
                ).flatten()
                for part in self._parts
            ]
        )

    def _count(self, name: str, part: str, lengths: Mapping[str, int], share: Share) -> int:
        """The rows that a rank sends of one tensor; a stream that only queries has no keys and values."""
        if part != "q" and not self._streams[name].page_tokens:
            return 0
        return self._grid(name, lengths[name]).cut(share).tokens

    def _grid(self, name: str, length: int) -> Grid:
        """The part of a sharded stream that the group has as a whole."""
        return self._streams[name].grid(length).cut(self._ring)

    def _own_heads_of(self, qkv: QKV) -> QKV:
        return QKV(None if qkv.q is None else self._own_heads(qkv.q), self._own_heads(qkv.k), self._own_heads(qkv.v))

    def _own_heads(self, x: Tensor) -> Tensor:
        return _heads(x, self._heads[self._group.index])


def _parts_of(qkv: QKV) -> Sequence[str]:
    """Which of its tensors a stream has."""
    return ("k", "v") if qkv.q is None else ("q", "k", "v")


def _heads(x: Tensor, heads: range) -> Tensor:
    return x[:, heads.start : heads.stop]
