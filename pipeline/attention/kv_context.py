"""One pass over one chunk against the KV store: the transaction.

The pass writes its own keys and values to a page that nobody sees; `commit` makes it visible, for all streams at
once. Without a commit nothing has happened.

Shapes: b batch, h heads, l tokens of one stream, d head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import torch
from torch import Tensor

from pipeline.attention.context import QKV, Site
from pipeline.attention.kernels import attend, merge
from pipeline.attention.kv_plan import PageTable, SiteLayout, join_runs
from pipeline.attention.rope import Rope, Rotation
from pipeline.clock import ChunkSpan
from pipeline.errors import CapacityError


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


@dataclass
class Branch:
    """The pages of one guidance pass."""

    table: PageTable
    buffers: dict[Site, SiteBuffer]


class StoreContext:
    """The attention context of one pass, seeing the committed pages and itself. Built by `KVStore.open`."""

    def __init__(
        self, layouts: Mapping[str, SiteLayout], rope: Rope, branch: Branch, chunk: ChunkSpan, write: bool
    ) -> None:
        self._layouts, self._rope, self._branch, self._chunk = layouts, rope, branch, chunk
        self._plan, self._open, self._write = branch.table.plan, True, write
        self._page = branch.table.page_for(chunk)
        self._is_sink = branch.table.is_sink(chunk)
        self._sink_shift_s = branch.table.sink_shift_s(chunk)
        self._sink_rotation = rope.rotation(rope.origin(1), self._sink_shift_s)
        self._lengths: dict[str, int] = {}
        self._rotations: dict[str, Rotation] = {}
        self._runs: dict[str, list[tuple[int, int]]] = {}
        self._written: set[Site] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False

    def attend(self, site: Site, streams: Mapping[str, QKV], positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `pipeline.attention.context.AttentionContext.attend`."""
        assert self._open, "the pass is over"
        layout, buffer = self._layouts[site.kind], self._branch.buffers[site]
        self._move_sink(layout, buffer)
        queries = {}
        for name, qkv in streams.items():
            rotate = self._rotation(name, qkv, positions.get(name))
            self._put(layout, buffer, name, qkv, rotate(qkv.k))
            if qkv.q is not None:
                queries[name] = rotate(qkv.q)
        self._written.add(site)
        q = torch.cat(list(queries.values()), dim=2)
        parts = [attend(q, buffer.keys[:, :, a:b], buffer.values[:, :, a:b]) for a, b in self._visible_runs(layout)]
        sizes = [query.shape[2] for query in queries.values()]
        return dict(zip(queries, torch.split(merge(parts)[0], sizes, dim=2), strict=True))

    def commit(self) -> None:
        """Make this pass's keys and values visible, for every stream at once."""
        assert self._open, "the pass is over"
        assert self._write, "only a pass opened with write=True may commit"
        missing = self._branch.buffers.keys() - self._written
        assert not missing, f"the pass never attended at {sorted(missing)}; its pages would hold stale keys"
        self._branch.table.commit(self._chunk, self._lengths)
        self._open = False

    def _put(self, layout: SiteLayout, buffer: SiteBuffer, name: str, qkv: QKV, key: Tensor) -> None:
        """Write one stream's own tokens to the page in flight."""
        stream, length = layout.stream(name), key.shape[2]
        if length > stream.page_tokens:
            raise CapacityError(
                f"chunk {self._chunk.index} has {length} {name} tokens, a page holds {stream.page_tokens};"
                " build the store for the size and chunk length that are rendered"
            )
        self._lengths[name] = length
        page = self._page if stream.kept else 0
        start = layout.slot(self._plan, name, page)
        buffer.keys[:, :, start : start + length] = key
        buffer.values[:, :, start : start + length] = qkv.v
        if stream.kept and self._is_sink and self._write:
            sink_start = page * stream.page_tokens
            buffer.sink[name][:, :, sink_start : sink_start + length] = key

    def _visible_runs(self, layout: SiteLayout) -> list[tuple[int, int]]:
        """Token slots of every committed page and of this pass; computed at the first layer, the same at all."""
        if layout.kind not in self._runs:
            table, own = self._branch.table, []
            for stream in layout.streams:
                start = layout.slot(self._plan, stream.name, self._page if stream.kept else 0)
                own.append((start, start + self._lengths.get(stream.name, 0)))
            self._runs[layout.kind] = join_runs([*table.runs(layout, table.pages), *own])
        return self._runs[layout.kind]

    def _move_sink(self, layout: SiteLayout, buffer: SiteBuffer) -> None:
        """Turn the sink's keys to the place they have for this chunk: once per chunk and site, not per pass."""
        if buffer.sink_shift_s == self._sink_shift_s:
            return
        for page in self._branch.table.sinks:
            for name, keys in buffer.sink.items():
                length = page.lengths[name]
                sink_start = page.number * layout.stream(name).page_tokens
                start = layout.slot(self._plan, name, page.number)
                moved = self._sink_rotation(keys[:, :, sink_start : sink_start + length])
                buffer.keys[:, :, start : start + length] = moved
        buffer.sink_shift_s = self._sink_shift_s

    def _rotation(self, name: str, qkv: QKV, positions: Tensor | None) -> Rotation:
        """The rotation of a stream's own tokens; text lies where the chunk begins, see docs/decisions."""
        if name not in self._rotations:
            if positions is None:
                self._rotations[name] = self._rope.rotation(self._rope.origin(qkv.k.shape[2]), self._chunk.start_s)
            else:
                self._rotations[name] = self._rope.rotation(positions)
        return self._rotations[name]
