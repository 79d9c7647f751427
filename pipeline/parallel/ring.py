"""Ring: every rank keeps its tokens of each chunk, and queries go round (Liu et al., Ring Attention, arXiv 2310.01889).

With a window of cached chunks the keys outnumber the queries many times over, so it is the queries that travel: each
rank attends with its peers' queries over its own keys, and sends back output and log-sum-exp, which the asking rank
merges (as "pass-Q" in Yang et al., Context Parallelism for Scalable Million-Token Inference, arXiv 2411.01783). While
one rank's queries are attended to, the next one's arrive. Parts are merged in the order of ranks, never of arrival, so
that queries which all ranks ask alike get the same bits everywhere.

A stream that every rank has whole, such as sound or text, is kept in shares like the others: its keys count once.

Shapes: b batch, h heads, l tokens of one stream, q queries, d head width, e width of a log-sum-exp in items of d.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from longtake.pipeline.attention.context import QKV
from longtake.pipeline.attention.exchange import Over
from longtake.pipeline.attention.kernels import Partial, lse_dtype, merge
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.shares import Share
from longtake.pipeline.parallel.group import Group, cut_columns, exchange, join_columns


class Ring:
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

    def layout(self, site: SiteLayout) -> SiteLayout:
        """See `Exchange.layout`."""
        return replace(site, streams=tuple(stream.shared(self._shares[self._group.index]) for stream in site.streams))

    def scatter(self, streams: Mapping[str, QKV], _: Mapping[str, int]) -> dict[str, QKV]:
        """See `Exchange.scatter`; tokens of sharded streams are where they belong, of others it takes some."""
        return {
            name: qkv if name in self._sharded else QKV(qkv.q, self.own(name, qkv.k), self.own(name, qkv.v))
            for name, qkv in streams.items()
        }

    def attend(self, queries: Mapping[str, Tensor], lengths: Mapping[str, int], over: Over) -> dict[str, Tensor]:
        """See `Exchange.attend`."""
        sharded = [name for name in queries if name in self._sharded]
        common = [name for name in queries if name not in self._sharded]
        names = sharded + common
        asked = _cat([queries[name] for name in names])
        sizes = [queries[name].shape[2] for name in names]
        counts = [sum(self._tokens(name, lengths[name], rank) for name in sharded) for rank in range(self._group.size)]
        parts = self._parts(asked, counts, over)
        out = dict(zip(names, torch.split(merge(parts)[0], sizes, dim=2), strict=True))
        return {name: out[name] for name in queries}

    def own(self, stream: str, page: Tensor) -> Tensor:
        """See `Exchange.own`."""
        return cut_columns(page, self._streams[stream].grid(page.shape[2]), self._shares[self._group.index])

    def whole(self, stream: str, page: Tensor, length: int) -> Tensor:
        """See `Exchange.whole`."""
        b, h, _, d = page.shape
        shapes = [(b, h, self._tokens(stream, length, rank), d) for rank in range(self._group.size)]
        pages = exchange(self._group, [page] * self._group.size, shapes)
        return join_columns(pages, self._streams[stream].grid(length).frames)

    def _tokens(self, stream: str, length: int, rank: int) -> int:
        return self._streams[stream].grid(length).cut(self._shares[rank]).tokens

    def _parts(self, asked: Tensor, counts: Sequence[int], over: Over) -> list[Partial]:
        """What every rank, in order, answers to this rank's queries.

        Args:
            asked: the queries that this rank alone asks, then those that all ranks ask.
            counts: the number of queries that each rank alone asks.
            over: attends over the keys on this rank.
        """
        me, size = self._group.index, self._group.size
        b, h, _, d = asked.shape
        own = asked[:, :, : counts[me]].contiguous()
        visitors = []
        for step in range(1, size):
            to, source = (me + step) % size, (me - step) % size
            theirs = asked.new_empty(b, h, counts[source], d)
            visitors.append((source, theirs, self._group.start({to: own}, {source: theirs})))
        mine = over(asked)
        packed = {me: _pack(mine)}
        to_all = packed[me][:, :, counts[me] :]
        answers = []
        for step, (source, theirs, arrived) in enumerate(visitors, start=1):
            arrived()
            answer, teller = _cat([_pack(over(theirs)), to_all]), (me + step) % size
            packed[teller] = torch.empty_like(packed[me])
            answers.append(self._group.start({source: answer}, {teller: packed[teller]}))
        for done in answers:
            done()
        return [mine if rank == me else _unpack(packed[rank], d, lse_dtype(asked)) for rank in range(size)]


def _pack(part: Partial) -> Tensor:
    """Output and log-sum-exp as one tensor [b h q d+e], bit for bit."""
    out, lse = part
    return torch.cat((out, rearrange(lse, "b h q -> b h q 1").contiguous().view(out.dtype)), dim=-1)


def _unpack(packed: Tensor, head_dim: int, dtype: torch.dtype) -> Partial:
    out, lse = packed[..., :head_dim], packed[..., head_dim:].contiguous().view(dtype)
    return out, rearrange(lse, "b h q 1 -> b h q")


def _cat(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=2)
