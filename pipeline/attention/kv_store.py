"""The KV store: keys and values of committed chunks, in preallocated pages.

One page holds one chunk of one stream with its true length. All pages of a site lie in one buffer,

    [ video: sink | ring ... ][ audio: sink | ring ... ][ text ]

so that a full window and the pass's own tokens are a single contiguous run of keys: no copy, no roll, one kernel
call. If pages are missing or short, each run is attended separately and the parts are merged by log-sum-exp.

If ranks share the store, each has a store of this form with its own heads, or its own rows of each chunk, or both.
Tables hold the lengths of whole chunks, so they are the same on every rank.

Window keys are stored rotated to their own positions. The sink's keys are also stored apart, and rotated again when the
window moves, so that they end just before it (angles add, so this is one rotation for all of them); so chunk 10,000
sees what chunk 10 sees.

Shapes: b batch, h heads, t token slots of a buffer, d head width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from longtake.pipeline.attention.context import Site
from longtake.pipeline.attention.exchange import UNSHARED, Sharing
from longtake.pipeline.attention.kv_context import Branch, SiteBuffer, StoreContext, StoreShared
from longtake.pipeline.attention.kv_plan import KVPlan, Page, PageTable, SiteLayout, prompt_of
from longtake.pipeline.attention.mask import Visibility
from longtake.pipeline.attention.rope import Ropes
from longtake.pipeline.clock import ChunkSpan


@dataclass(frozen=True)
class BranchSnapshot:
    """What one branch has committed, and nothing else: the table, and whole pages of every site, for any number of
    ranks."""

    table: PageTable
    tensors: dict[Site, list[Tensor]]


@dataclass(frozen=True)
class _View:
    """This rank's share of one committed page of one stream, inside a buffer: [b h t d]."""

    stream: str
    length: int
    tensor: Tensor


class KVStore:
    """Keys and values of one take, per branch, constant in bytes for any length of film.

    Args:
        sites: the model's attention sites.
        plan: window, sink and refresh.
        rope: the model's positions to rotations, for all sites or by kind of site.
        branches: names of the guidance passes that this rank runs, each with its own pages.
        dtype: of keys and values.
        batch: takes rendered in step.
        parallel: the ranks that share the store.
    """

    def __init__(
        self,
        sites: Sequence[SiteLayout],
        plan: KVPlan,
        rope: Ropes,
        *,
        branches: Sequence[str] = ("guided",),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
        parallel: Sharing = UNSHARED,
    ) -> None:
        self.plan, self.dtype, self.device = plan, dtype, device
        self._exchanges = {site.kind: parallel.at(site) for site in sites}
        self.layouts = {site.kind: self._exchanges[site.kind].layout(site) for site in sites}
        self._shared = StoreShared(rope, parallel, self.layouts, self._exchanges, device)
        self._branches = {branch: Branch(PageTable(plan), {}) for branch in branches}
        allocate = partial(_allocate, plan=plan, batch=batch, dtype=dtype, device=device)
        for layout in self.layouts.values():
            # Where nothing outlives a pass, it reads only what it has just written at the same site, so one buffer
            # serves all. What is made of a prompt alone stays, in each layer, for all branches that read the prompt.
            common = allocate(layout) if plan.keeps_nothing and not layout.is_constant else None
            for layer in range(layout.num_layers):
                prompts: dict[str, SiteBuffer] = {}
                for name, branch in self._branches.items():
                    buffer = common or prompts.get(prompt_of(name)) or allocate(layout)
                    if layout.is_constant:
                        prompts[prompt_of(name)] = buffer
                    branch.buffers[Site(layer, layout.kind)] = buffer

    def open(
        self,
        chunk: ChunkSpan,
        branch: str,
        write: bool = False,
        seen: Mapping[str, Tensor] | None = None,
        visibility: Visibility | None = None,
    ) -> StoreContext:
        """The attention context of one pass over `chunk`; without a commit nothing that is committed changes.

        Args:
            chunk: what the pass renders.
            branch: whose pages it sees.
            write: whether the pass may commit (the clean pass).
            seen: which tokens of a whole stream that is not kept, such as padded text, count as keys: bool [b l] by
                stream; all of a stream that is left out. Kept streams have their true lengths instead.
            visibility: which of these keys each query sees; all if None.
        """
        return StoreContext(self._shared, self._branches[branch], chunk, write, seen, visibility)

    def reset(self, num_commits: int = 0) -> None:
        """Empty every branch, as at a cut and before a replay.

        Args:
            num_commits: how many commits count as already made. The next chunk is then written to the page that it
                has in an uninterrupted run, so that sums over pages are taken in the same order.
        """
        for branch in self._branches.values():
            branch.table = PageTable(self.plan, num_commits=num_commits)
            for buffer in branch.buffers.values():
                buffer.sink_shift_s = None

    def chunks(self, branch: str) -> list[int]:
        """The chunks that are visible in `branch`, the sink first."""
        return [page.chunk for page in self._branches[branch].table.pages]

    @property
    def bytes(self) -> int:
        """Bytes of all pages; equal to `store_bytes` of the same shape."""
        buffers = [buffer for branch in self._branches.values() for buffer in branch.buffers.values()]
        tensors = {id(t): t for buffer in buffers for t in (buffer.keys, buffer.values, *buffer.sink.values())}
        return sum(tensor.nbytes for tensor in tensors.values())

    def snapshot(self) -> dict[str, BranchSnapshot]:
        """A copy of everything that is committed: bit for bit the same before and after an aborted chunk, and for any
        number of ranks whose keys are the same bits. Every rank must call it, and gets the whole."""
        return {
            name: BranchSnapshot(
                branch.table.copy(),
                {
                    site: [
                        self._exchanges[site.kind].whole(view.stream, view.tensor, view.length).clone()
                        for view in self._committed(branch, site)
                    ]
                    for site in branch.buffers
                },
            )
            for name, branch in self._branches.items()
        }

    def restore(self, snapshot: Mapping[str, BranchSnapshot]) -> None:
        """Put a snapshot back, taken by any number of ranks; a gang of this size then computes the same bits as before.
        Branches that other ranks run are left out."""
        self.reset()
        for name, branch in self._branches.items():
            saved = snapshot[name]
            branch.table = saved.table.copy()
            for site, pages in saved.tensors.items():
                own = self._exchanges[site.kind].own
                for view, page in zip(self._committed(branch, site), pages, strict=True):
                    view.tensor.copy_(own(view.stream, page))

    def _committed(self, branch: Branch, site: Site) -> Iterator[_View]:
        """What is committed at a site: values of all pages, keys of the window, and the sink's own keys."""
        layout, buffer, table = self.layouts[site.kind], branch.buffers[site], branch.table
        for stream in layout.streams:

            def view(tensor: Tensor, start: int, page: Page, name: str = stream.name) -> _View:
                length = page.lengths[name]
                return _View(name, length, tensor[:, :, start : start + layout.stream(name).tokens(length)])

            if not stream.kept:
                continue
            for page in table.pages:
                yield view(buffer.values, layout.slot(self.plan, stream.name, page.number), page)
            for page in table.window:
                yield view(buffer.keys, layout.slot(self.plan, stream.name, page.number), page)
            for page in table.sinks:
                yield view(buffer.sink[stream.name], page.number * stream.page_tokens, page)


def _allocate(
    layout: SiteLayout, plan: KVPlan, batch: int, dtype: torch.dtype, device: torch.device | str
) -> SiteBuffer:
    def zeros(slots: int) -> Tensor:
        return torch.zeros(batch, layout.num_heads, slots, layout.head_dim, dtype=dtype, device=device)

    slots = layout.num_slots(plan)
    sink = {stream.name: zeros(plan.sink * stream.page_tokens) for stream in layout.streams if stream.kept}
    return SiteBuffer(zeros(slots), zeros(slots), sink)
