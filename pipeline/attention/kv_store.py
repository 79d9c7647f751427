"""The KV store: keys and values of committed chunks, in preallocated pages.

One page holds one chunk of one stream with its true length. All pages of a site lie in one buffer,

    [ video: sink | ring ... ][ audio: sink | ring ... ][ text ]

so that a full window and the pass's own tokens are a single contiguous run of keys: no copy, no roll, one kernel
call. Where pages are missing or short, each run is attended alone and the parts are merged by log-sum-exp.

Window keys lie rotated at their own positions. The sink's keys are kept apart as well, and turned on whenever the
window moves, to sit just before it (angles add, so this is one rotation for all of them); so chunk 10,000 sees what
chunk 10 sees.

Shapes: b batch, h heads, t token slots of a buffer, d head width.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attention.context import Site
from pipeline.attention.kv_context import Branch, SiteBuffer, StoreContext
from pipeline.attention.kv_plan import KVPlan, PageTable, SiteLayout, join_runs
from pipeline.attention.rope import Rope
from pipeline.clock import ChunkSpan


@dataclass(frozen=True)
class BranchSnapshot:
    """What one branch has committed, and nothing else: the table, and the tensors of every site."""

    table: PageTable
    tensors: dict[Site, list[Tensor]]


class KVStore:
    """Keys and values of one take, per branch, constant in bytes whatever the film's length.

    Args:
        sites: the model's attention sites.
        plan: window, sink and refresh.
        rope: the model's positions to rotations.
        branches: names of the guidance passes, each with pages of its own.
        dtype: of keys and values.
        batch: takes rendered in step.
    """

    def __init__(
        self,
        sites: Sequence[SiteLayout],
        plan: KVPlan,
        rope: Rope,
        *,
        branches: Sequence[str] = ("guided",),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> None:
        self.plan, self.rope, self.dtype, self.device = plan, rope, dtype, device
        self.layouts = {site.kind: site for site in sites}
        self._branches = {branch: Branch(PageTable(plan), {}) for branch in branches}
        for branch in self._branches.values():
            for layout in sites:
                for layer in range(layout.num_layers):
                    branch.buffers[Site(layer, layout.kind)] = _allocate(layout, plan, batch, dtype, device)

    def open(self, chunk: ChunkSpan, branch: str, write: bool = False) -> StoreContext:
        """The attention context of one pass over `chunk`; without a commit nothing that is committed changes.

        Args:
            chunk: what the pass renders.
            branch: whose pages it sees.
            write: whether the pass may commit (the clean pass).
        """
        return StoreContext(self.layouts, self.rope, self._branches[branch], chunk, write)

    def reset(self) -> None:
        """Empty every branch, as at a cut and before a replay."""
        for branch in self._branches.values():
            branch.table = PageTable(self.plan)
            for buffer in branch.buffers.values():
                buffer.sink_shift_s = None

    def chunks(self, branch: str) -> list[int]:
        """The chunks that are visible in `branch`, the sink first."""
        return [page.chunk for page in self._branches[branch].table.pages]

    @property
    def bytes(self) -> int:
        """Bytes of all pages; equal to `store_bytes` of the same shape."""
        return sum(
            tensor.numel() * tensor.element_size()
            for branch in self._branches.values()
            for buffer in branch.buffers.values()
            for tensor in (buffer.keys, buffer.values, *buffer.sink.values())
        )

    def fork(self) -> "KVStore":
        """An independent store with the same content."""
        return deepcopy(self)

    def snapshot(self) -> dict[str, BranchSnapshot]:
        """A copy of everything that is committed: bit for bit the same before and after an aborted chunk."""
        return {
            name: BranchSnapshot(
                branch.table.copy(),
                {site: [t.clone() for t in self._committed(branch, site)] for site in branch.buffers},
            )
            for name, branch in self._branches.items()
        }

    def restore(self, snapshot: Mapping[str, BranchSnapshot]) -> None:
        """Put a snapshot back; what follows is bit for bit what followed when it was taken."""
        self.reset()
        for name, saved in snapshot.items():
            branch = self._branches[name]
            branch.table = saved.table.copy()
            for site, tensors in saved.tensors.items():
                for room, tensor in zip(self._committed(branch, site), tensors, strict=True):
                    room.copy_(tensor)

    def _committed(self, branch: Branch, site: Site) -> list[Tensor]:
        """Views of what is committed at a site: values of all pages, keys of the window, and the sink's own keys."""
        layout, buffer = self.layouts[site.kind], branch.buffers[site]
        sinks = join_runs(branch.table.runs(layout, branch.table.sinks))
        window = join_runs(branch.table.runs(layout, branch.table.window))
        views = [buffer.values[:, :, start:stop] for start, stop in (*sinks, *window)]
        views += [buffer.keys[:, :, start:stop] for start, stop in window]
        for name, keys in buffer.sink.items():
            size = layout.stream(name).page_tokens
            views += [keys[:, :, p.number * size : p.number * size + p.lengths[name]] for p in branch.table.sinks]
        return views


def _allocate(
    layout: SiteLayout, plan: KVPlan, batch: int, dtype: torch.dtype, device: torch.device | str
) -> SiteBuffer:
    def zeros(slots: int) -> Tensor:
        return torch.zeros(batch, layout.num_heads, slots, layout.head_dim, dtype=dtype, device=device)

    slots = layout.num_slots(plan)
    sink = {stream.name: zeros(plan.sink * stream.page_tokens) for stream in layout.streams if stream.kept}
    return SiteBuffer(zeros(slots), zeros(slots), sink)
