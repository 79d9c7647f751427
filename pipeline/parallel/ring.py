"""Ring: every rank keeps its tokens of each chunk, and queries go round (Liu et al., Ring Attention, arXiv 2310.01889).

With a window of cached chunks there are many more keys than queries, so the queries travel: each rank attends with its
peers' queries over its own keys, and sends back output and log-sum-exp, which its peer merges ("pass-Q" in Yang
et al., Context Parallelism for Scalable Million-Token Inference, arXiv 2411.01783). While a rank attends with one
peer's queries, the next peer's arrive. Parts are merged in the order of ranks, never of arrival, so that queries which
all ranks have in common get the same bits everywhere.

A stream that every rank has whole, such as sound or text, is kept in shares like the others: its keys count once.

Shapes: b batch, h heads, l tokens of one stream, q queries, d head width, e width of a log-sum-exp in items of d.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import QKV
from longtake.pipeline.attention.exchange import Exchange, Over, QueryBlock
from longtake.pipeline.attention.kernels import Partial, lse_dtype, merge
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.shares import ALL, Rows, Share
from longtake.pipeline.parallel.group import Group, cut_columns, exchange, join_columns


class Ring(Exchange):
    """Shares a site by tokens.

    Args:
        site: as a whole.
        group: the ranks to share with.
        sharded: streams of which each rank has some tokens; of the others each rank has all.
    """

    def __init__(self, site: SiteLayout, group: Group, sharded: Collection[str]) -> None:
        self._group, self._sharded = group, sharded
        self._streams = {stream.name: stream for stream in site.streams}
        self._shares = [Share(rank, group.size) for rank in range(group.size)]

    @override
    def layout(self, site: SiteLayout) -> SiteLayout:
        return replace(site, streams=tuple(stream.shared(self._shares[self._group.index]) for stream in site.streams))

    @override
    def scatter(self, streams: Mapping[str, QKV], lengths: Mapping[str, int]) -> dict[str, QKV]:
        # A sharded stream's tokens are on their rank already; of the others, this rank keeps its share.
        return {
            name: qkv if name in self._sharded else QKV(qkv.q, self.own(name, qkv.k), self.own(name, qkv.v))
            for name, qkv in streams.items()
        }

    @override
    def attend(self, queries: Mapping[str, Tensor], lengths: Mapping[str, int], over: Over) -> dict[str, Tensor]:
        # Sharded streams first: their queries travel. The queries of the others are the same on every rank and stay.
        sharded = [name for name in queries if name in self._sharded]
        common = [name for name in queries if name not in self._sharded]
        names = sharded + common
        traveling = [{name: self._rows(name, lengths[name], share) for name in sharded} for share in self._shares]
        rows = traveling[self._group.index] | {name: self._rows(name, lengths[name], ALL) for name in common}
        query = QueryBlock(_cat([queries[name] for name in names]), rows)
        sizes = [queries[name].shape[2] for name in names]
        out, _lse = merge(self._parts(query, traveling, over))
        attended = dict(zip(names, torch.split(out, sizes, dim=2), strict=True))
        return {name: attended[name] for name in queries}

    @override
    def own(self, stream: str, page: Tensor) -> Tensor:
        return cut_columns(page, self._streams[stream].grid(page.shape[2]), self._shares[self._group.index])

    @override
    def whole(self, stream: str, page: Tensor, length: int) -> Tensor:
        b, h, _, d = page.shape
        shapes = [(b, h, self._rows(stream, length, share).count, d) for share in self._shares]
        pages = exchange(self._group, [page] * self._group.size, shapes)
        return join_columns(pages, self._streams[stream].grid(length).frames)

    def _rows(self, stream: str, length: int, share: Share) -> Rows:
        return self._streams[stream].grid(length).rows(share)

    def _parts(self, query: QueryBlock, traveling: Sequence[Mapping[str, Rows]], over: Over) -> list[Partial]:
        """The attention of this rank's queries over the keys of every rank, in the order of ranks.

        Args:
            query: this rank's queries: first those that travel, then those that all ranks have in common.
            traveling: the rows of the queries that each rank sends.
            over: attends over the keys on this rank.
        """
        me, size = self._group.index, self._group.size
        b, h, _, d = query.tensor.shape
        counts = [sum(rows.count for rows in of_rank.values()) for of_rank in traveling]
        own = query.tensor[:, :, : counts[me]].contiguous()
        # All receives are posted before the first wait. In step s, rank r sends to r + s and receives from r - s.
        visitors = []
        for step in range(1, size):
            to, source = (me + step) % size, (me - step) % size
            theirs = query.tensor.new_empty(b, h, counts[source], d)
            visitors.append((source, theirs, self._group.start({to: own}, {source: theirs})))
        mine = over(query)
        packed = {me: _pack(mine)}
        common = packed[me][:, :, counts[me] :]
        # A peer needs two things: its own queries over these keys, and the common queries over these keys. The second
        # is computed once, as part of `mine`, and sent along with each answer.
        answers = []
        for step, (source, theirs, arrived) in enumerate(visitors, start=1):
            arrived()
            answer, teller = _cat([_pack(over(QueryBlock(theirs, traveling[source]))), common]), (me + step) % size
            packed[teller] = torch.empty_like(packed[me])
            answers.append(self._group.start({source: answer}, {teller: packed[teller]}))
        for done in answers:
            done()
        return [mine if rank == me else _unpack(packed[rank], d, lse_dtype(query.tensor)) for rank in range(size)]


def _pack(part: Partial) -> Tensor:
    """Output and log-sum-exp as one tensor [b h q d+e], bit for bit."""
    out, lse = part
    return torch.cat((out, rearrange(lse, "b h q -> b h q 1").contiguous().view(out.dtype)), dim=-1)


def _unpack(packed: Tensor, head_dim: int, dtype: torch.dtype) -> Partial:
    out, lse = packed[..., :head_dim], packed[..., head_dim:].contiguous().view(dtype)
    return out, rearrange(lse, "b h q 1 -> b h q")


def _cat(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=2)
