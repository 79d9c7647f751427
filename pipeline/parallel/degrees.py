"""How ranks share attention, on plain ints: degrees and places on the mesh.

A gang's ranks form a mesh of three axes. Tokens are cut twice, first along `ring`, then along `ulysses`:

    cfg      guided and unguided passes on different ranks; only velocities travel, once a step
    ring     every rank keeps its rows of each chunk; queries travel, and partial results come back
    ulysses  every rank keeps its heads of each chunk; the new chunk's tokens travel, and outputs come back

    8 ranks as cfg 2, ring 2, ulysses 2:   cfg 0  ring 0  ulysses 0 1  = ranks 0 1
                                                  ring 1  ulysses 0 1  = ranks 2 3
                                           cfg 1  ...                  = ranks 4 5 6 7
"""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from longtake.pipeline.attention.shares import Share
from longtake.pipeline.errors import SpecError

EXCHANGE_S = 120.0
"""Default for the seconds that a rank waits for its peers, in an exchange or when they meet."""


class Place(NamedTuple):
    """A rank's place on the mesh."""

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
        """The place of `rank`, counted inside the gang; neighbours differ along `ulysses` first."""
        rest, ulysses = divmod(rank, self.ulysses)
        return Place(*divmod(rest, self.ring), ulysses)

    def rank(self, place: Place) -> int:
        """The rank at `place`."""
        return (place.cfg * self.ring + place.ring) * self.ulysses + place.ulysses

    def columns(self, place: Place, size: int) -> range:
        """Which of the `size` tokens of every frame of a sharded stream the rank at `place` runs through the blocks."""
        ring = Share(place.ring, self.ring).of(size)
        own = Share(place.ulysses, self.ulysses).of(len(ring))
        return range(ring.start + own.start, ring.start + own.stop)


def propose(ranks: int, num_heads: int, num_passes: int) -> Degrees:
    """Degrees for `ranks`: first along `cfg`, since little travels there; then along `ulysses`, as far as heads can be
    shared evenly; the rest along `ring`."""
    cfg = 2 if num_passes == 2 and ranks % 2 == 0 else 1
    rest = ranks // cfg
    divisors = [degree for degree in range(1, rest + 1) if rest % degree == 0 and degree <= num_heads]
    ulysses = max(divisors, key=lambda degree: (num_heads / (degree * Share(0, degree).largest(num_heads)), degree))
    return Degrees(ulysses, rest // ulysses, cfg)
