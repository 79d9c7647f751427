"""Attention under a mask, on one rank's rows: from row numbers of whole streams to token slots.

Shapes: b batch, h heads, q queries, d head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longtake.pipeline.attention.exchange import QueryBlock
from longtake.pipeline.attention.kernels import Partial
from longtake.pipeline.attention.kv_plan import Run, join_runs
from longtake.pipeline.attention.mask import Mask, SiteRows
from longtake.pipeline.attention.shares import Rows


@dataclass(frozen=True)
class KeySegment:
    """Where the keys of one stream of one chunk lie on this rank.

    Args:
        numbers: of all its rows; see `SiteRows`.
        rows: those that this rank keeps.
        slot: the token slot of the first of them.
    """

    numbers: range
    rows: Rows
    slot: int

    def slots(self, numbers: Run) -> Run:
        """The slots of those rows of a range that are here. Rows stay in order, so these are one run."""
        start, stop = (self.slot + self.rows.before(number - self.numbers.start) for number in numbers)
        return start, stop


OverRuns = Callable[[Tensor, Sequence[Run]], Partial]
"""Queries [b h q d], runs of token slots -> attention over the keys in them."""


def attend_masked(
    query: QueryBlock, mask: Mask, site: SiteRows, segments: Sequence[KeySegment], over: OverRuns
) -> Partial:
    """The attention of `query` under the spans and blocks of `mask`: one call of `over` for each run of queries that
    see the same keys."""
    parts, first = [], 0
    for name, rows in query.rows.items():
        numbers = site.queries[name]
        for run, keys in mask.ranges(numbers, site.num_keys):
            start, stop = (first + rows.before(number - numbers.start) for number in run)
            if start < stop:
                runs = join_runs([segment.slots(key) for segment in segments for key in keys])
                parts.append(over(query.tensor[:, :, start:stop], runs or [(0, 0)]))
        first += rows.count
    if not parts:
        return over(query.tensor, [(0, 0)])
    outs, lses = zip(*parts, strict=True)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)
