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

    def most(self, total: int) -> int:
        """The size of the largest part of `total`."""
        return -(-total // self.count)


ALL = Share()
"""The whole of anything."""


class Grid(NamedTuple):
    """Tokens of one stream of a chunk, in the order of `frames`, each of which has `size` and is cut alike."""

    frames: int
    size: int

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.frames * self.size

    def cut(self, share: Share) -> "Grid":
        """One share of every frame."""
        return Grid(self.frames, len(share.of(self.size)))
