"""What ranks send to each other, counted before anything runs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from longtake.pipeline.attention.shares import Grid, Share
from longtake.pipeline.parallel.degrees import Degrees


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
