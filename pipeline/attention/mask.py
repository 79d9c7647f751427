"""Masks: which keys a query sees, as a value that means the same on one rank and on many.

A mask numbers the rows of one attention site in one pass, as `SiteRows` says: the whole streams, in an order that does
not depend on how ranks or pages hold them. A `Visibility` is asked for a mask at every site, so it may depend on the
layer and on the chunks that are visible; what it answers must be the same on every rank.

No dense queries x keys mask is ever built: spans and blocks become ranges of keys, which are attended one range at a
time and merged by log-sum-exp. A query that sees no key gets output 0 and a log-sum-exp of -inf, as in `kernels`.

Shapes: b batch, k keys, x query blocks, y key blocks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from longtake.pipeline.attention.context import Site
from longtake.pipeline.attention.kv_plan import Run, join_runs


class Span(NamedTuple):
    """The queries of some rows see the keys of some rows; both are half-open."""

    queries: Run
    keys: Run


@dataclass(frozen=True)
class BlockPattern:
    """Which blocks of keys each block of queries sees.

    Args:
        visible: bool [x y], on the CPU.
        query_rows, key_rows: of a block; the last one may be shorter.
    """

    visible: Tensor
    query_rows: int
    key_rows: int

    def __post_init__(self) -> None:
        assert self.visible.device.type == "cpu", "reading a pattern must not wait for a device"

    def keys(self, query: int) -> Iterator[Run]:
        """The ranges of keys that a query row sees."""
        for block, visible in enumerate(self.visible[query // self.query_rows].tolist()):
            if visible:
                yield block * self.key_rows, (block + 1) * self.key_rows


@dataclass(frozen=True)
class Mask:
    """Which keys a query sees: those that every given form allows.

    Args:
        keys: bool [b k]: keys that no query sees are False.
        spans: a query sees the keys of every span that it is in, and no others.
        blocks: a query sees the blocks of keys that its own block does.
    """

    keys: Tensor | None = None
    spans: Sequence[Span] | None = None
    blocks: BlockPattern | None = None

    def ranges(self, queries: range, num_keys: int) -> list[tuple[Run, list[Run]]]:
        """`queries` in runs of rows that see the same keys by spans and blocks, and the ranges of those keys."""
        found: list[tuple[Run, list[Run]]] = []
        for start, stop in pairwise(self._borders(queries)):
            keys = self._seen_by(start, num_keys)
            if found and found[-1][1] == keys:
                found[-1] = ((found[-1][0][0], stop), keys)
            else:
                found.append(((start, stop), keys))
        return found

    def _borders(self, queries: range) -> list[int]:
        """The rows at which what is seen may change, with the first row and the end."""
        inside = {row for span in self.spans or () for row in span.queries}
        if self.blocks is not None:
            inside.update(range(0, queries.stop, self.blocks.query_rows))
        return [queries.start, *sorted(row for row in inside if queries.start < row < queries.stop), queries.stop]

    def _seen_by(self, query: int, num_keys: int) -> list[Run]:
        runs: list[Run] = [(0, num_keys)]
        if self.spans is not None:
            runs = _overlap(runs, [span.keys for span in self.spans if span.queries[0] <= query < span.queries[1]])
        if self.blocks is not None:
            runs = _overlap(runs, list(self.blocks.keys(query)))
        return runs


def _overlap(some: Sequence[Run], others: Sequence[Run]) -> list[Run]:
    """The rows that are in both."""
    joined = join_runs(others)
    return join_runs([(max(a, c), min(b, d)) for a, b in some for c, d in joined])


@dataclass(frozen=True)
class SiteRows:
    """The numbers of the rows of one attention site in one pass, the same on every rank.

    Args:
        queries: by stream, in the order of the site's layout.
        keys: by stream and chunk: streams in the order of the layout, and of each the visible chunks, the oldest first
            and the pass's own last.
    """

    queries: Mapping[str, range]
    keys: Mapping[tuple[str, int], range]

    @property
    def num_keys(self) -> int:
        """Of all streams and chunks."""
        return max((rows.stop for rows in self.keys.values()), default=0)


Visibility = Callable[[Site, SiteRows], Mask | None]
"""A site of one pass, and its rows -> which keys its queries see; None where they see all."""
