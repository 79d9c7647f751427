"""One pass over one chunk against the KV store: the transaction.

The pass writes its own keys and values to a page that no pass sees; `commit` makes it visible, for all streams at once.
Without a commit the store stays as it was. If ranks share the store, all of them run the pass, each with its rows.

Shapes: b batch, h heads, l tokens of one stream, f latent frames, s tokens of each, t token slots, k key rows of a
site, a axes, d head width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Self

import torch
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import QKV, AttentionContext, HeldKV, Meeting, PromptKV, Site
from longtake.pipeline.attention.exchange import Exchange, Over, Sharing
from longtake.pipeline.attention.kernels import Partial, attend, merge
from longtake.pipeline.attention.kv_plan import PageTable, Run, SiteLayout, join_runs
from longtake.pipeline.attention.mask import SiteRows, Visibility
from longtake.pipeline.attention.masked import KeySegment, attend_masked
from longtake.pipeline.attention.memory import Latest, same_memory
from longtake.pipeline.attention.rope import Ropes, Rotation, rope_of
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import CapacityError


@dataclass
class SiteBuffer:
    """Keys and values [b h t d] of one site, t token slots.

    Args:
        sink: the sink's keys at their own positions, [b h t d] by stream.
        sink_shift_s: by how much the sink's keys in `keys` are shifted now; None if that must be done first.
        prompts: of which prompts the keys and values here are made, by stream.
    """

    keys: Tensor
    values: Tensor
    sink: dict[str, Tensor]
    sink_shift_s: Fraction | None = None
    prompts: dict[str, "KeptPrompt"] = field(default_factory=dict)

    def run(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values of some slots."""
        return self.keys[:, :, start:stop], self.values[:, :, start:stop]


@dataclass(frozen=True)
class KeptPrompt:
    """What the keys and values of a prompt in a buffer are made of.

    Args:
        site: whose they are; buffers may be shared.
        source, owner: see `PromptKV`.
        start_s: of the chunk where they lie; None where they are not rotated.
    """

    site: Site
    source: Tensor
    owner: object
    start_s: Fraction | None

    def is_of(self, other: "KeptPrompt") -> bool:
        """Whether they equal those of `other`."""
        same_place = (self.site, self.start_s) == (other.site, other.start_s)
        return same_place and self.owner is other.owner and same_memory(self.source, other.source)


@dataclass
class Branch:
    """The pages of one guidance pass."""

    table: PageTable
    buffers: dict[Site, SiteBuffer]


@dataclass(frozen=True)
class StoreShared:
    """What all passes of a store share, by kind of site.

    Args:
        layouts: the space on this rank.
        exchanges: how ranks share a site.
        device: of the pages.
    """

    ropes: Ropes
    sharing: Sharing
    layouts: Mapping[str, SiteLayout]
    exchanges: Mapping[str, Exchange]
    device: torch.device | str
    _rotations: dict[tuple[str, str], Latest[Rotation]] = field(default_factory=dict)

    def rotation(self, layout: SiteLayout, name: str, positions: Tensor) -> Rotation:
        """The rotation of this rank's rows of a whole stream; kept while `positions` is the same tensor, as it is for
        all passes over a chunk."""

        def turn() -> Rotation:
            grid = layout.stream(name).grid(len(positions))
            columns = self.sharing.columns(name, grid.size)
            own = rearrange(positions, "(f s) a -> f s a", f=grid.frames)[:, columns]
            return rope_of(self.ropes, layout.kind).rotation(rearrange(own, "f s a -> (f s) a"))

        return self._rotations.setdefault((layout.kind, name), Latest()).of(positions, None, turn)

    def shift(self, layout: SiteLayout, shift_s: Fraction) -> Rotation:
        """The rotation by a time shift, for tokens at the origin or keys that are rotated already, with all heads."""
        rope = rope_of(self.ropes, layout.kind)
        return rope.rotation(rope.origin(1, self.device), shift_s)


class StoreContext(AttentionContext):
    """The attention context of one pass, which sees the committed pages and its own tokens. Built by `KVStore.open`."""

    def __init__(
        self,
        shared: StoreShared,
        branch: Branch,
        chunk: ChunkSpan,
        write: bool,
        seen: Mapping[str, Tensor] | None = None,
        visibility: Visibility | None = None,
    ) -> None:
        self._shared, self._branch, self._chunk, self._visibility = shared, branch, chunk, visibility
        self._plan, self._open, self._write = branch.table.plan, True, write
        self._page = branch.table.page_for(chunk)
        self._is_sink = branch.table.is_sink(chunk)
        self._sink_shift_s = branch.table.sink_shift_s(chunk)
        self._shifts: dict[tuple[str, Fraction], Rotation] = {}
        self._lengths: dict[str, int] = {}
        self._runs: dict[str, list[Run]] = {}
        self._seen = seen or {}
        self._masks: dict[str, Tensor | None] = {}
        self._written: set[Site] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False

    @override
    def attend(self, site: Site, streams: Meeting, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert self._open, "the pass is over"
        layout, exchange = self._shared.layouts[site.kind], self._shared.exchanges[site.kind]
        buffer = self._branch.buffers[site]
        streams = _with_keys_of_held(layout, streams)
        lengths = {name: self._length(layout, name, stream, positions) for name, stream in streams.items()}
        self._check_fits(layout, lengths)
        self._move_sink(layout, buffer)
        new, prompts = self._without_kept(site, buffer, streams, rotated=bool(positions))
        rotated = {name: self._rotated(layout, name, qkv, positions) for name, qkv in new.items()} if positions else new
        queries = {}
        for name, qkv in exchange.scatter(rotated, lengths).items():
            self._put(layout, buffer, name, qkv)
            if qkv.q is not None:
                queries[name] = qkv.q
        buffer.prompts |= prompts
        self._written.add(site)
        # From here on peers may send their queries, which are attended over the keys on this rank like its own.
        return exchange.attend(queries, lengths, self._over(site, buffer, queries, lengths))

    def commit(self) -> None:
        """Make this pass's keys and values visible, for every stream at once."""
        assert self._open, "the pass is over"
        assert self._write, "only a pass opened with write=True may commit"
        missing = self._branch.buffers.keys() - self._written
        assert not missing, f"the pass never attended at {sorted(missing)}; its pages would hold stale keys"
        self._branch.table.commit(self._chunk, self._lengths)
        self._open = False

    def _without_kept(
        self, site: Site, buffer: SiteBuffer, streams: Meeting, *, rotated: bool
    ) -> tuple[dict[str, QKV], dict[str, KeptPrompt]]:
        """The streams whose keys are not in the buffer already, and the prompts among them."""
        new: dict[str, QKV] = {}
        prompts: dict[str, KeptPrompt] = {}
        for name, stream in streams.items():
            if isinstance(stream, QKV):
                new[name] = stream
                continue
            if isinstance(stream, HeldKV):
                continue
            start_s = self._chunk.start_s if rotated else None
            wanted, kept = KeptPrompt(site, stream.source, stream.owner, start_s), buffer.prompts.get(name)
            if torch.is_grad_enabled() or kept is None or not kept.is_of(wanted):
                buffer.prompts.pop(name, None)  # until all of it is written
                new[name], prompts[name] = stream.made(), wanted
        return new, prompts

    def _over(self, site: Site, buffer: SiteBuffer, queries: Mapping[str, Tensor], lengths: Mapping[str, int]) -> Over:
        """Attention over the keys of this site on this rank. All queries see the same runs of slots, unless the site is
        masked."""
        layout = self._shared.layouts[site.kind]
        seen = self._seen_slots(layout, lengths)

        def over_runs(q: Tensor, runs: Sequence[Run], seen: Tensor | None = seen) -> Partial:
            return merge([attend(q, *buffer.run(a, b), None if seen is None else seen[:, a:b]) for a, b in runs])

        if self._visibility is not None:
            rows, segments = self._numbered(layout, queries, lengths)
            mask = self._visibility(site, rows)
            if mask is not None:
                if mask.keys is not None:
                    seen = self._narrowed(layout, seen, mask.keys, segments)
                over_seen = partial(over_runs, seen=seen)
                return lambda query: attend_masked(query, mask, rows, segments, over_seen)
        runs = self._visible_runs(layout, lengths)
        return lambda query: over_runs(query.tensor, runs)

    def _numbered(
        self, layout: SiteLayout, queries: Mapping[str, Tensor], lengths: Mapping[str, int]
    ) -> tuple[SiteRows, list[KeySegment]]:
        """The numbers of the site's rows, and where its keys lie on this rank; see `SiteRows`."""
        of_queries: dict[str, range] = {}
        of_keys: dict[tuple[str, int], range] = {}
        segments, next_query, next_key = [], 0, 0
        for stream in layout.streams:
            if stream.name in queries:
                of_queries[stream.name] = range(next_query, next_query + lengths[stream.name])
                next_query += lengths[stream.name]
            if not stream.page_tokens:
                continue
            committed = self._branch.table.pages if stream.kept else []
            pages = [(page.chunk, page.number, page.lengths[stream.name]) for page in committed]
            pages.append((self._chunk.index, self._page if stream.kept else 0, lengths.get(stream.name, 0)))
            for chunk, page, length in pages:
                numbers = range(next_key, next_key + length)
                of_keys[stream.name, chunk] = numbers
                rows, slot = stream.grid(length).rows(stream.share), layout.slot(self._plan, stream.name, page)
                segments.append(KeySegment(numbers, rows, slot))
                next_key += length
        return SiteRows(of_queries, of_keys), segments

    def _narrowed(
        self, layout: SiteLayout, seen: Tensor | None, keys: Tensor, segments: Sequence[KeySegment]
    ) -> Tensor:
        """Which token slots count as keys on this rank, bool [b t], given which keys of the site do, [b k]."""
        slots = keys.new_ones(len(keys), layout.num_slots(self._plan))
        for segment in segments:
            numbers = [segment.numbers.start + row for row in segment.rows.numbers()]
            slots[:, segment.slot : segment.slot + len(numbers)] = keys[:, numbers]
        return slots if seen is None else slots & seen

    def _length(
        self, layout: SiteLayout, name: str, qkv: QKV | PromptKV | HeldKV, positions: Mapping[str, Tensor]
    ) -> int:
        """The length of a whole stream."""
        if isinstance(qkv, HeldKV):
            return qkv.length
        if name in positions:
            return len(positions[name])
        if isinstance(qkv, PromptKV):
            return qkv.source.shape[1]
        if qkv.q is None or qkv.k.shape[2]:
            return qkv.k.shape[2]
        # A query-only stream without positions, such as video over the prompt: some columns of every frame are here.
        size = layout.stream(name).frame_tokens
        columns = self._shared.sharing.columns(name, size)
        width = columns.stop - columns.start
        return qkv.q.shape[2] // width * size if width else self._lengths.get(name, 0)

    def _check_fits(self, layout: SiteLayout, lengths: Mapping[str, int]) -> None:
        """Refuse what does not fit a page, on all ranks or on none, before anything travels."""
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

    def _visible_runs(self, layout: SiteLayout, lengths: Mapping[str, int]) -> list[Run]:
        """Token slots of every committed page and of this pass; computed at the first layer, the same at all."""
        if layout.kind not in self._runs:
            table, own = self._branch.table, []
            for stream in layout.streams:
                start = layout.slot(self._plan, stream.name, self._page if stream.kept else 0)
                own.append((start, start + stream.tokens(lengths.get(stream.name, 0))))
            self._runs[layout.kind] = join_runs([*table.runs(layout, table.pages), *own]) or [(0, 0)]
        return self._runs[layout.kind]

    def _seen_slots(self, layout: SiteLayout, lengths: Mapping[str, int]) -> Tensor | None:
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
        """Rotate the sink's keys to their positions for this chunk: once per chunk and site, not per pass."""
        if buffer.sink_shift_s == self._sink_shift_s:
            return
        rotate = self._shift(layout, self._sink_shift_s).again.for_heads(layout.heads)
        for page in self._branch.table.sinks:
            for name, keys in buffer.sink.items():
                stream = layout.stream(name)
                length, sink_start = stream.tokens(page.lengths[name]), page.number * stream.page_tokens
                start = layout.slot(self._plan, name, page.number)
                moved = rotate(keys[:, :, sink_start : sink_start + length])
                buffer.keys[:, :, start : start + length] = moved
        buffer.sink_shift_s = self._sink_shift_s

    def _rotated(self, layout: SiteLayout, name: str, qkv: QKV, positions: Mapping[str, Tensor]) -> QKV:
        """This rank's rows of a stream, rotated to their positions; text lies where the chunk begins, see
        docs/decisions."""
        if name not in positions:
            rotate = self._shift(layout, self._chunk.start_s)
        else:
            rotate = self._shared.rotation(layout, name, positions[name])
        has_keys = layout.stream(name).page_tokens > 0
        return QKV(None if qkv.q is None else rotate(qkv.q), rotate(qkv.k) if has_keys else qkv.k, qkv.v)

    def _shift(self, layout: SiteLayout, shift_s: Fraction) -> Rotation:
        """The rotation by a time shift; computed once a pass, the same at all layers."""
        key = (layout.kind, shift_s)
        if key not in self._shifts:
            self._shifts[key] = self._shared.shift(layout, shift_s)
        return self._shifts[key]


def _with_keys_of_held(layout: SiteLayout, streams: Meeting) -> Meeting:
    """The streams without those that are held and have no keys at the site."""
    held = {name for name, stream in streams.items() if isinstance(stream, HeldKV)}
    if not held:
        return streams
    keyed = {stream.name for stream in layout.streams if stream.page_tokens}
    return {name: stream for name, stream in streams.items() if name not in held - keyed}
