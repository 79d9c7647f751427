"""One pass over one chunk against the KV store: the transaction.

The pass writes its own keys and values to a page that nobody sees; `commit` makes it visible, for all streams at
once. Without a commit nothing has happened.

Shapes: b batch, h heads, l tokens of one stream, d head width.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from pipeline.attention.context import QKV, Site
from pipeline.attention.kernels import attend, merge
from pipeline.attention.kv_plan import SiteLayout, join_runs
from pipeline.attention.rope import Rotation
from pipeline.clock import ChunkSpan
from pipeline.errors import CapacityError

if TYPE_CHECKING:
    from pipeline.attention.kv_store import Branch, KVStore, SiteBuffer


class StoreContext:
    """The attention context of one pass, seeing the committed pages and itself. Built by `KVStore.open`."""

    def __init__(self, store: "KVStore", branch: "Branch", chunk: ChunkSpan, write: bool) -> None:
        self._store, self._branch, self._chunk, self._write = store, branch, chunk, write
        self._page = branch.table.page_for(chunk)
        self._is_sink = branch.table.is_sink(chunk)
        self._sink_shift_s = branch.table.sink_shift_s(chunk)
        self._lengths: dict[str, int] = {}
        self._positions: dict[str, Tensor] = {}
        self._rotations: dict[str, Rotation] = {}
        self._sink_rotations: dict[tuple[int, str], Rotation] = {}
        self._runs: dict[str, list[tuple[int, int]]] = {}
        self._written: set[Site] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write = False

    def attend(self, site: Site, streams: Mapping[str, QKV], positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `pipeline.attention.context.AttentionContext.attend`."""
        layout, buffer = self._store.layouts[site.kind], self._branch.buffers[site]
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
        assert self._write, "only a pass opened with write=True may commit, once"
        missing = self._branch.buffers.keys() - self._written
        assert not missing, f"the pass never attended at {sorted(missing)}; its pages would hold stale keys"
        self._branch.table.commit(self._chunk, self._lengths)
        if self._is_sink:
            for name, positions in self._positions.items():
                self._branch.sink_positions[self._page, name] = positions
        self._write = False

    def _put(self, layout: SiteLayout, buffer: "SiteBuffer", name: str, qkv: QKV, key: Tensor) -> None:
        """Write one stream's own tokens to the page in flight."""
        stream, length = layout.stream(name), key.shape[2]
        if length > stream.page_tokens:
            raise CapacityError(
                f"chunk {self._chunk.index} has {length} {name} tokens, a page holds {stream.page_tokens};"
                " build the store for the size and chunk length that are rendered"
            )
        self._lengths[name] = length
        page = self._page if stream.kept else 0
        start = layout.slot(self._store.plan, name, page)
        buffer.keys[:, :, start : start + length] = key
        buffer.values[:, :, start : start + length] = qkv.v
        if stream.kept and self._is_sink and self._write:
            raw_start = page * stream.page_tokens
            buffer.raw_sink[name][:, :, raw_start : raw_start + length] = qkv.k

    def _visible_runs(self, layout: SiteLayout) -> list[tuple[int, int]]:
        """Token slots of every committed page and of this pass; computed at the first layer, the same at all."""
        if layout.kind not in self._runs:
            table, own = self._branch.table, []
            for stream in layout.streams:
                start = layout.slot(self._store.plan, stream.name, self._page if stream.kept else 0)
                own.append((start, start + self._lengths.get(stream.name, 0)))
            self._runs[layout.kind] = join_runs([*table.runs(layout, table.pages), *own])
        return self._runs[layout.kind]

    def _move_sink(self, layout: SiteLayout, buffer: "SiteBuffer") -> None:
        """Rotate the sink's raw keys to the place they have for this chunk: once per chunk and site, not per pass."""
        if buffer.sink_shift_s == self._sink_shift_s:
            return
        for page in self._branch.table.sinks:
            for name, raw in buffer.raw_sink.items():
                length = page.lengths[name]
                raw_start = page.number * layout.stream(name).page_tokens
                start = layout.slot(self._store.plan, name, page.number)
                rotation = self._sink_rotation(page.number, name)
                buffer.keys[:, :, start : start + length] = rotation(raw[:, :, raw_start : raw_start + length])
        buffer.sink_shift_s = self._sink_shift_s

    def _sink_rotation(self, page: int, name: str) -> Rotation:
        if (page, name) not in self._sink_rotations:
            positions = self._branch.sink_positions[page, name]
            self._sink_rotations[page, name] = self._store.rope.rotation(positions, self._sink_shift_s)
        return self._sink_rotations[page, name]

    def _rotation(self, name: str, qkv: QKV, positions: Tensor | None) -> Rotation:
        """The rotation of a stream's own tokens; text lies where the chunk begins, so that no time is special."""
        if name not in self._rotations:
            rope = self._store.rope
            if positions is None:
                self._rotations[name] = rope.rotation(rope.origin(qkv.k.shape[2]), self._chunk.start_s)
            else:
                self._positions[name] = positions
                self._rotations[name] = rope.rotation(positions)
        return self._rotations[name]
