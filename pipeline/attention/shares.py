"""How ranks share attention, on plain ints: degrees, places, and what has to travel.

A gang's ranks form a mesh of three axes. Tokens are cut twice, first along `ring`, then along `ulysses`:

    cfg      guided and unguided passes on different ranks; only velocities travel, once a step
    ring     every rank keeps its rows of each chunk; queries travel, and come back as partial results
    ulysses  every rank keeps its heads of each chunk; the new chunk's tokens travel, and come back attended

    8 ranks as cfg 2, ring 2, ulysses 2:   cfg 0  ring 0  ulysses 0 1  = ranks 0 1
                                                  ring 1  ulysses 0 1  = ranks 2 3
                                           cfg 1  ...                  = ranks 4 5 6 7
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from pipeline.errors import SpecError


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


class Place(NamedTuple):
    """Where a rank stands on the mesh."""

    cfg: int
    ring: int
    ulysses: int


@dataclass(frozen=True)
class Degrees:
    """The number of ranks along each axis of the mesh."""

    ulysses: int = 1
    ring: int = 1
    cfg: int = 1

    def __post_init__(self) -> None:
        for name, most in (("ulysses", None), ("ring", None), ("cfg", 2)):
            value = getattr(self, name)
            if value < 1 or (most and value > most):
                raise SpecError(f"the {name} degree is {value}; it must be {'1 or 2' if most else 'at least 1'}")

    @property
    def ranks(self) -> int:
        """All ranks of the gang."""
        return prod((self.ulysses, self.ring, self.cfg))

    def place(self, rank: int) -> Place:
        """Where `rank`, counted inside the gang, stands; neighbours differ along `ulysses` first."""
        rest, ulysses = divmod(rank, self.ulysses)
        return Place(*divmod(rest, self.ring), ulysses)

    def rank(self, place: Place) -> int:
        """The rank that stands at `place`."""
        return (place.cfg * self.ring + place.ring) * self.ulysses + place.ulysses

    def columns(self, place: Place, size: int) -> range:
        """Which of the `size` tokens of every frame of a sharded stream the rank at `place` runs through the blocks."""
        ring = Share(place.ring, self.ring).of(size)
        own = Share(place.ulysses, self.ulysses).of(len(ring))
        return range(ring.start + own.start, ring.start + own.stop)


def propose(ranks: int, num_heads: int, num_passes: int) -> Degrees:
    """Degrees for `ranks`: guidance passes apart first, since little travels between them; then whole heads, as far
    as they can be shared evenly; then rows."""
    cfg = 2 if num_passes == 2 and ranks % 2 == 0 else 1
    rest = ranks // cfg
    divisors = [degree for degree in range(1, rest + 1) if rest % degree == 0 and degree <= num_heads]
    ulysses = max(divisors, key=lambda degree: (num_heads / (degree * Share(0, degree).most(num_heads)), degree))
    return Degrees(ulysses, rest // ulysses, cfg)


@dataclass(frozen=True)
class SiteTraffic:
    """What travels between ranks for one attention site in one pass.

    Args:
        num_heads: and `head_dim`: of the site.
        asking: the tokens of each stream that has queries.
        keys: the tokens of each stream that has keys.
        item_bytes: of queries, keys, values and outputs; a log-sum-exp has at least four.
        sharded: streams that are cut; of the others each rank has all.
        batch: takes rendered in step.
    """

    num_heads: int
    head_dim: int
    asking: Mapping[str, Grid]
    keys: Mapping[str, Grid]
    item_bytes: int
    sharded: Collection[str]
    batch: int = 1

    def sent_bytes(self, degrees: Degrees) -> int:
        """Bytes that all ranks of one guidance pass send together; what a rank keeps for itself is not sent."""
        if not any(grid.tokens for name, grid in self.keys.items() if name in self.sharded):
            return 0
        asked = sum(grid.tokens for name, grid in self.asking.items() if name in self.sharded)
        common = sum(grid.tokens for name, grid in self.asking.items() if name not in self.sharded)
        token_bytes, lse_bytes = self.head_dim * self.item_bytes, max(self.item_bytes, 4)
        heads, ulysses, ring = self.num_heads, degrees.ulysses, degrees.ring
        # Ulysses: a token's head is sent wherever the rank of its row is not the rank of its head, out and back.
        out = self._crossings(degrees, self.asking) + 2 * self._crossings(degrees, self.keys)
        back = self._crossings(degrees, self.asking) + ring * (ulysses - 1) * common * heads
        # Ring: every query visits every other rank; every answer to it, and to the common queries, comes back.
        visits = (ring - 1) * asked * heads
        answers = (ring - 1) * (asked + ring * common) * heads
        return self.batch * ((out + back + visits) * token_bytes + answers * (token_bytes + lse_bytes))

    def _crossings(self, degrees: Degrees, streams: Mapping[str, Grid]) -> int:
        """Pairs of token and head that lie on different ranks of their Ulysses group."""
        parts = [Share(index, degrees.ulysses) for index in range(degrees.ulysses)]
        total = 0
        for name, whole in streams.items():
            if name in self.sharded:
                for ring in range(degrees.ring):
                    here = whole.cut(Share(ring, degrees.ring))
                    stay = sum(here.cut(part).tokens * len(part.of(self.num_heads)) for part in parts)
                    total += here.tokens * self.num_heads - stay
        return total
