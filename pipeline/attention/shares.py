"""Parts of tokens and heads, on plain ints."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Share:
    """One of `count` consecutive parts of anything, whose sizes differ by one at most; parts may be empty."""

    index: int = 0
    count: int = 1

    def of(self, total: int) -> range:
        """Which of `total` are in this part."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)

    def largest(self, total: int) -> int:
        """The size of the largest part of `total`."""
        return -(-total // self.count)


ALL = Share()
"""The whole of anything."""


class Grid(NamedTuple):
    """Tokens of one stream of a chunk, in the order of `frames`, each of which has `size`; all are cut alike."""

    frames: int
    size: int

    @property
    def tokens(self) -> int:
        """The number of all tokens."""
        return self.frames * self.size

    def cut(self, share: Share) -> "Grid":
        """One share of every frame."""
        return Grid(self.frames, len(share.of(self.size)))

    def rows(self, share: Share = ALL) -> "Rows":
        """The row numbers of one share of every frame."""
        return Rows(self, share.of(self.size))


@dataclass(frozen=True)
class Rows:
    """Some rows of a grid's tokens: the same columns of every frame. They are in ascending order, so a range of the
    grid's rows is a range of these."""

    grid: Grid
    columns: range

    @property
    def count(self) -> int:
        """How many they are."""
        return self.grid.frames * len(self.columns)

    def before(self, row: int) -> int:
        """How many of them come before a row of the grid, which may lie outside it."""
        row = min(max(row, 0), self.grid.tokens)
        frames, column = divmod(row, self.grid.size) if self.grid.size else (0, 0)
        inside = min(max(column - self.columns.start, 0), len(self.columns))
        return frames * len(self.columns) + inside

    def numbers(self) -> list[int]:
        """Their numbers in the grid."""
        return [frame * self.grid.size + column for frame in range(self.grid.frames) for column in self.columns]
