"""One pass over one chunk against the KV store: the transaction.

The pass writes its own keys and values to a page that nobody sees; `commit` makes it visible, for all streams at
once. Without a commit nothing has happened. Where ranks share the store, all of them run the pass, each with its rows.

Shapes: b batch, h heads, l tokens of one stream, f latent frames, s tokens of each, a axes, d head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from longtake.pipeline.attention.context import QKV, Site
from longtake.pipeline.attention.exchange import Exchange, Parallel
from longtake.pipeline.attention.kernels import Partial, attend, merge
from longtake.pipeline.attention.kv_plan import PageTable, SiteLayout, join_runs
from longtake.pipeline.attention.rope import Ropes, Rotation, rope_of
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import CapacityError


@dataclass
class SiteBuffer:
    """Keys and values [b h t d] of one site, t token slots.

    Args:
        sink: the sink's keys at their own place in time, [b h t d] by stream.
        sink_shift_s: by how much the sink's keys in `keys` are moved now; `None` where they must be moved first.
    """

    keys: Tensor
    values: Tensor
    sink: dict[str, Tensor]
    sink_shift_s: Fraction | None = None

    def run(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values of some slots."""
        return self.keys[:, :, start:stop], self.values[:, :, start:stop]


@dataclass
class Branch:
    """The pages of one guidance pass."""

    table: PageTable
    buffers: dict[Site, SiteBuffer]


@dataclass(frozen=True)
class StoreShared:
    """What all passes of a store share, by kind of site.

    Args:
        layouts: the room on this rank.
        exchanges: how ranks share a site.
    """

    ropes: Ropes
    parallel: Parallel
    layouts: Mapping[str, SiteLayout]
    exchanges: Mapping[str, Exchange]
    _rotations: dict[tuple[str, str], tuple[Tensor, Rotation]] = field(default_factory=dict)

    def rotation(self, layout: SiteLayout, name: str, positions: Tensor) -> Rotation:
        """The rotation of this rank's rows of a whole stream; kept while positions stay, for all steps of a chunk."""
        known, rotation = self._rotations.get((layout.kind, name), (None, None))
        if rotation is None or known is None or not torch.equal(known, positions):
            grid = layout.stream(name).grid(len(positions))
            columns = self.parallel.columns(name, grid.size)
            own = rearrange(positions, "(f s) a -> f s a", f=grid.frames)[:, columns]
            rotation = rope_of(self.ropes, layout.kind).rotation(rearrange(own, "f s a -> (f s) a"))
            self._rotations[layout.kind, name] = (positions, rotation)
        return rotation

    def shift(self, layout: SiteLayout, shift_s: Fraction) -> Rotation:
        """The rotation by so many seconds, for tokens at the origin or keys that lie rotated, with all heads."""
        rope = rope_of(self.ropes, layout.kind)
        return rope.rotation(rope.origin(1), shift_s)


class StoreContext:
    """The attention context of one pass, seeing the committed pages and itself. Built by `KVStore.open`."""

    def __init__(
        self, room: StoreShared, branch: Branch, chunk: ChunkSpan, write: bool, seen: Mapping[str, Tensor] | None = None
    ) -> None:
        self._room, self._branch, self._chunk = room, branch, chunk
        self._plan, self._open, self._write = branch.table.plan, True, write
        self._page = branch.table.page_for(chunk)
        self._is_sink = branch.table.is_sink(chunk)
        self._sink_shift_s = branch.table.sink_shift_s(chunk)
        self._shifts: dict[tuple[str, Fraction], Rotation] = {}
        self._lengths: dict[str, int] = {}
        self._runs: dict[str, list[tuple[int, int]]] = {}
        self._seen = seen or {}
        self._masks: dict[str, Tensor | None] = {}
        self._written: set[Site] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False

    def attend(self, site: Site, streams: Mapping[str, QKV], positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `longtake.pipeline.attention.context.AttentionContext.attend`."""
        assert self._open, "the pass is over"
        layout, exchange = self._room.layouts[site.kind], self._room.exchanges[site.kind]
        buffer = self._branch.buffers[site]
        lengths = {n: len(positions[n]) if n in positions else qkv.k.shape[2] for n, qkv in streams.items()}
        self._check_room(layout, lengths)
        self._move_sink(layout, buffer)
        rotated = {n: self._rotated(layout, n, qkv, positions) for n, qkv in streams.items()} if positions else streams
        queries = {}
        for name, qkv in exchange.scatter(rotated, lengths).items():
            self._put(layout, buffer, name, qkv)
            if qkv.q is not None:
                queries[name] = qkv.q
        self._written.add(site)
        runs, mask = self._visible_runs(layout, lengths), self._mask(layout, lengths)

        def over(q: Tensor) -> Partial:
            return merge([attend(q, *buffer.run(a, b), None if mask is None else mask[:, a:b]) for a, b in runs])

        return exchange.attend(queries, lengths, over)

    def commit(self) -> None:
        """Make this pass's keys and values visible, for every stream at once."""
        assert self._open, "the pass is over"
        assert self._write, "only a pass opened with write=True may commit"
        missing = self._branch.buffers.keys() - self._written
        assert not missing, f"the pass never attended at {sorted(missing)}; its pages would hold stale keys"
        self._branch.table.commit(self._chunk, self._lengths)
        self._open = False

    def _check_room(self, layout: SiteLayout, lengths: Mapping[str, int]) -> None:
        """Refuse what does not fit, on all ranks or on none, and before anything travels."""
        for stream in layout.streams:
            length = lengths.get(stream.name, 0)
            if not stream.fits(length):
                raise CapacityError(
                    f"chunk {self._chunk.index} has {length} {stream.name} tokens, a page holds"
                    f" {stream.page_tokens * stream.share.count};"
                    " build the store for the size and chunk length that are rendered"
                )
            if stream.kept:
                self._lengths[stream.name] = length

    def _put(self, layout: SiteLayout, buffer: SiteBuffer, name: str, qkv: QKV) -> None:
        """Write what this rank keeps of one stream to the page in flight."""
        stream, length = layout.stream(name), qkv.k.shape[2]
        page = self._page if stream.kept else 0
        start = layout.slot(self._plan, name, page)
        buffer.keys[:, :, start : start + length] = qkv.k
        buffer.values[:, :, start : start + length] = qkv.v
        if stream.kept and self._is_sink and self._write:
            sink_start = page * stream.page_tokens
            buffer.sink[name][:, :, sink_start : sink_start + length] = qkv.k

    def _visible_runs(self, layout: SiteLayout, lengths: Mapping[str, int]) -> list[tuple[int, int]]:
        """Token slots of every committed page and of this pass; computed at the first layer, the same at all."""
        if layout.kind not in self._runs:
            table, own = self._branch.table, []
            for stream in layout.streams:
                start = layout.slot(self._plan, stream.name, self._page if stream.kept else 0)
                own.append((start, start + stream.tokens(lengths.get(stream.name, 0))))
            self._runs[layout.kind] = join_runs([*table.runs(layout, table.pages), *own]) or [(0, 0)]
        return self._runs[layout.kind]

    def _mask(self, layout: SiteLayout, lengths: Mapping[str, int]) -> Tensor | None:
        """Which token slots count as keys on this rank, bool [b t]; None where all do. Computed once a pass."""
        if layout.kind not in self._masks:
            mask = None
            for name in self._seen.keys() & lengths.keys():
                stream, whole = layout.stream(name), self._seen[name]
                assert not stream.kept, f"{name} is kept with its true length; it needs no mask"
                if mask is None:
                    mask = whole.new_ones(len(whole), layout.num_slots(self._plan))
                start, own = layout.slot(self._plan, name, 0), stream.share.of(whole.shape[1])
                mask[:, start : start + len(own)] = whole[:, own.start : own.stop]
            self._masks[layout.kind] = mask
        return self._masks[layout.kind]

    def _move_sink(self, layout: SiteLayout, buffer: SiteBuffer) -> None:
        """Turn the sink's keys to the place they have for this chunk: once per chunk and site, not per pass."""
        if buffer.sink_shift_s == self._sink_shift_s:
            return
        rotate = self._shift(layout, self._sink_shift_s).of(layout.heads)
        for page in self._branch.table.sinks:
            for name, keys in buffer.sink.items():
                stream = layout.stream(name)
                length, sink_start = stream.tokens(page.lengths[name]), page.number * stream.page_tokens
                start = layout.slot(self._plan, name, page.number)
                moved = rotate(keys[:, :, sink_start : sink_start + length])
                buffer.keys[:, :, start : start + length] = moved
        buffer.sink_shift_s = self._sink_shift_s

    def _rotated(self, layout: SiteLayout, name: str, qkv: QKV, positions: Mapping[str, Tensor]) -> QKV:
        """This rank's rows of a stream, rotated to where they are; text lies where the chunk begins, see
        docs/decisions."""
        if name not in positions:
            rotate = self._shift(layout, self._chunk.start_s)
        else:
            rotate = self._room.rotation(layout, name, positions[name])
        has_keys = layout.stream(name).page_tokens > 0
        return QKV(None if qkv.q is None else rotate(qkv.q), rotate(qkv.k) if has_keys else qkv.k, qkv.v)

    def _shift(self, layout: SiteLayout, shift_s: Fraction) -> Rotation:
        """See `StoreShared.shift`; computed once a pass, the same at all layers."""
        key = (layout.kind, shift_s)
        if key not in self._shifts:
            self._shifts[key] = self._room.shift(layout, shift_s)
        return self._shifts[key]
