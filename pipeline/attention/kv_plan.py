"""Which chunks are kept and where: the policy of the KV store, on plain ints, without tensors.

A branch of the store has one row of pages per stream. With `sink=1` and `window=3`:

    page      0      | 1     2     3     4
    holds     sink   | window, as a ring, and the chunk that is being rendered
    chunk 7   0      | 5     6     7     4        7 is in flight and sees 0 4 5 6; its page held 3, now outside

The ring has one page more than the window, so that nothing visible is overwritten before a commit.

At *canonical points* the store is emptied and filled again from finished latents, by the ordinary clean pass. So its
content depends only on the latents since the last such point's window, and a resumed run can rebuild it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile

from longtake.pipeline.attention.shares import ALL, Grid, Share
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import SpecError

Run = tuple[int, int]
"""A half-open range of rows or token slots."""


@dataclass(frozen=True)
class KVPlan:
    """How much context a chunk sees, in whole chunks, and how often the store is rebuilt.

    Args:
        window: chunks before the current one that stay visible; 0 if chunks see only themselves.
        sink: first chunks of a section that stay visible until the next cut (Xiao et al., arXiv 2309.17453).
        refresh_chunks: distance between canonical points inside a scene; eight windows if None.
        keeps_passes: whether each layer and branch keeps the keys and values of its last pass, for streams that a step
            plan holds. They do anyway where later chunks see earlier ones.
    """

    window: int
    sink: int = 0
    refresh_chunks: int | None = None
    keeps_passes: bool = False

    def __post_init__(self) -> None:
        for name, least in (("window", 0), ("sink", 0), ("refresh_chunks", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SpecError(f"{name} is {value}; the KV plan needs at least {least}")

    @property
    def num_pages(self) -> int:
        """Pages of one stream: the sink, the window, and one for the chunk in flight."""
        return self.sink + self.window + 1

    @property
    def refresh_every(self) -> int:
        """Chunks between two canonical points inside a scene."""
        return self.refresh_chunks or 8 * self.window or 1

    @property
    def keeps_nothing(self) -> bool:
        """Whether nothing that a pass writes is seen later, so that all layers and branches can use the same buffers in
        turn."""
        return not (self.window or self.sink or self.keeps_passes)

    def visible(self, section: int, chunk: int) -> list[int]:
        """The chunks that `chunk` sees besides itself, oldest first; its section began with chunk `section`."""
        sink = range(section, min(section + self.sink, chunk))
        window = range(max(section + self.sink, chunk - self.window), chunk)
        return [*sink, *window]

    def is_canonical(self, scene_start: int, chunk: int) -> bool:
        """Whether the store is emptied and rebuilt before `chunk`: at every scene's start and at every refresh."""
        return self.last_canonical(scene_start, chunk) == chunk

    def history(self, section: int, scene_start: int, chunk: int) -> list[int]:
        """The finished chunks from which a run can resume at `chunk`: the last canonical point's, and all since."""
        canonical = self.last_canonical(scene_start, chunk)
        return [*self.visible(section, canonical), *range(canonical, chunk)]

    def last_canonical(self, scene_start: int, chunk: int) -> int:
        """The canonical point at or before `chunk`: where a resumed run starts its replay."""
        return chunk - (chunk - scene_start) % self.refresh_every


NOTHING_KEPT = KVPlan(window=0)
"""The plan of a store in which nothing outlives its pass."""


@dataclass(frozen=True)
class StreamLayout:
    """Space for one stream.

    Args:
        page_tokens: the most tokens a page holds on this rank; 0 for a query-only stream.
        kept: whether they outlive their pass; text does not.
        frame_tokens: tokens of each latent frame; every frame is cut into the same shares. If it is 1, the chunk is cut
            as a whole.
        share: the part of each chunk that is kept on this rank.
        constant: whether its keys and values stay while a scene does, as those of a prompt do.
    """

    name: str
    page_tokens: int
    kept: bool = True
    frame_tokens: int = 1
    share: Share = ALL
    constant: bool = False

    def grid(self, length: int) -> Grid:
        """The grid by which a whole chunk of `length` tokens is cut."""
        return Grid(length // self.frame_tokens, self.frame_tokens) if self.frame_tokens > 1 else Grid(1, length)

    def shared(self, share: Share) -> "StreamLayout":
        """Space for one share of every chunk."""
        frames, size = self.grid(self.page_tokens)
        return replace(self, page_tokens=frames * share.largest(size), share=share)

    def tokens(self, length: int) -> int:
        """How many of a chunk's `length` tokens are kept here."""
        return self.grid(length).cut(self.share).tokens if self.page_tokens else 0

    def fits(self, length: int) -> bool:
        """Whether every rank's page holds its share of `length` tokens; the same answer on all of them."""
        frames, size = self.grid(length)
        return self.page_tokens == 0 or frames * self.share.largest(size) <= self.page_tokens


@dataclass(frozen=True)
class SiteLayout:
    """All layers' sites of one kind: which streams meet there, and the shape of their heads.

    Args:
        heads: which of the model's heads are kept on this rank; `num_heads` counts those.
    """

    kind: str
    num_layers: int
    num_heads: int
    head_dim: int
    streams: tuple[StreamLayout, ...]
    heads: Share = ALL

    @property
    def is_constant(self) -> bool:
        """Whether all its keys and values stay while a scene does, so that each layer keeps its own."""
        return all(stream.constant for stream in self.streams if stream.page_tokens)

    def num_slots(self, plan: KVPlan) -> int:
        """Token slots of one buffer: all pages of all streams, one after another."""
        return sum(_stream_slots(stream, plan) for stream in self.streams)

    def slot(self, plan: KVPlan, stream: str, page: int) -> int:
        """The first token slot of `page` of `stream`."""
        before = takewhile(lambda layout: layout.name != stream, self.streams)
        return sum(_stream_slots(layout, plan) for layout in before) + page * self.stream(stream).page_tokens

    def stream(self, name: str) -> StreamLayout:
        """The layout of one stream."""
        return next(layout for layout in self.streams if layout.name == name)


def _stream_slots(stream: StreamLayout, plan: KVPlan) -> int:
    return stream.page_tokens * (plan.num_pages if stream.kept else 1)


def prompt_of(branch: str) -> str:
    """The branch that reads the prompt of the guidance pass `branch`: "unguided" has its own, all others read the
    scene's."""
    return branch if branch == "unguided" else "guided"


def store_bytes(
    sites: Sequence[SiteLayout], plan: KVPlan, *, branches: Collection[str], item_bytes: int, batch: int = 1
) -> int:
    """Bytes that a KV store of this shape holds, from a film's first chunk to its last.

    Args:
        branches: names of the guidance passes.
    """
    total = 0
    for site in sites:
        if site.is_constant:
            buffers = site.num_layers * len(set(map(prompt_of, branches)))
        else:
            buffers = 1 if plan.keeps_nothing else site.num_layers * len(branches)
        sink = plan.sink * sum(stream.page_tokens for stream in site.streams if stream.kept)
        slots = 2 * site.num_slots(plan) + sink
        total += buffers * site.num_heads * site.head_dim * slots
    return total * item_bytes * batch


@dataclass(frozen=True)
class Page:
    """A committed chunk: its page number, its true length in each stream on all ranks, its times in seconds."""

    chunk: int
    number: int
    lengths: Mapping[str, int]
    start_s: Fraction
    stop_s: Fraction


class PageTable:
    """The committed pages of one branch, in order; `num_commits` counts the commits to the ring."""

    def __init__(
        self, plan: KVPlan, sinks: Sequence[Page] = (), window: Sequence[Page] = (), num_commits: int = 0
    ) -> None:
        self.plan = plan
        self.sinks = list(sinks)
        self.window = list(window)
        self.num_commits = num_commits

    @property
    def pages(self) -> list[Page]:
        """Everything that is committed: the sink, then the window."""
        return self.sinks + self.window

    def is_sink(self, chunk: ChunkSpan) -> bool:
        """Whether `chunk` belongs to its section's sink."""
        return chunk.index - chunk.section < self.plan.sink

    def page_for(self, chunk: ChunkSpan) -> int:
        """The page that `chunk` is written to; it holds nothing that `chunk` may see."""
        if self.is_sink(chunk):
            return chunk.index - chunk.section
        return self.plan.sink + self.num_commits % (self.plan.window + 1)

    def commit(self, chunk: ChunkSpan, lengths: Mapping[str, int]) -> None:
        """Make `chunk` visible; if the window is full, its oldest chunk leaves."""
        assert all(page.chunk < chunk.index for page in self.pages), f"chunk {chunk.index} is not the next one"
        page = Page(chunk.index, self.page_for(chunk), dict(lengths), chunk.start_s, chunk.stop_s)
        if self.is_sink(chunk):
            self.sinks.append(page)
            return
        # The page number above is that of the old count; counting moves the ring on to the page that leaves now, which
        # is written next. The slice keeps the last `window` chunks, and none if the window is 0.
        self.num_commits += 1
        self.window = [*self.window, page][max(0, len(self.window) + 1 - self.plan.window) :]

    def sink_shift_s(self, chunk: ChunkSpan) -> Fraction:
        """By how many seconds the sink moves so that it ends where the window, or else `chunk`, begins."""
        if not self.sinks:
            return Fraction(0)
        begins = self.window[0].start_s if self.window else chunk.start_s
        return begins - self.sinks[-1].stop_s

    def runs(self, layout: SiteLayout, pages: Sequence[Page]) -> list[Run]:
        """The token slots that `pages` fill at sites of `layout`."""
        starts = [
            (layout.slot(self.plan, s.name, p.number), s.tokens(p.lengths.get(s.name, 0)))
            for s in layout.streams
            if s.kept
            for p in pages
        ]
        return [(start, start + length) for start, length in starts]

    def copy(self) -> "PageTable":
        """An independent table with the same pages."""
        return PageTable(self.plan, self.sinks, self.window, self.num_commits)


def join_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs, sorted, without empty ones, and with those joined that touch or overlap."""
    joined: list[Run] = []
    for start, stop in sorted(run for run in runs if run[0] < run[1]):
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
