"""The bytes that ranks send to each other, predicted before anything runs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.shares import Grid, Share
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.parallel.context_parallel import SHARDED
from longtake.pipeline.parallel.degrees import Degrees


@dataclass(frozen=True)
class SiteTraffic:
    """The traffic between ranks for one attention site in one pass.

    Args:
        num_heads, head_dim: of the site.
        queries: the tokens of each stream that has queries.
        keys: the tokens of each stream that has keys.
        item_bytes: of queries, keys, values and outputs; a log-sum-exp has at least four.
        sharded: streams that are cut; of the others each rank has all.
        batch: takes rendered in step.
    """

    num_heads: int
    head_dim: int
    queries: Mapping[str, Grid]
    keys: Mapping[str, Grid]
    item_bytes: int
    sharded: Collection[str]
    batch: int = 1

    def sent_bytes(self, degrees: Degrees) -> int:
        """Bytes that all ranks of one guidance branch send together; what a rank keeps for itself is not sent."""
        if not any(grid.tokens for name, grid in self.keys.items() if name in self.sharded):
            return 0
        traveling = sum(grid.tokens for name, grid in self.queries.items() if name in self.sharded)
        common = sum(grid.tokens for name, grid in self.queries.items() if name not in self.sharded)
        token_bytes, lse_bytes = self.head_dim * self.item_bytes, max(self.item_bytes, 4)
        heads, ulysses, ring = self.num_heads, degrees.ulysses, degrees.ring
        # Ulysses: a head of a token is sent if the ranks of its row and of its head differ, out and back.
        out = self._crossings(degrees, self.queries) + 2 * self._crossings(degrees, self.keys)
        back = self._crossings(degrees, self.queries) + ring * (ulysses - 1) * common * heads
        # Ring: every query visits every other rank; its output, and that of the common queries, comes back.
        visits = (ring - 1) * traveling * heads
        answers = (ring - 1) * (traveling + ring * common) * heads
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


@dataclass(frozen=True)
class GangTraffic:
    """What all ranks of a gang send together while they render one chunk.

    Args:
        layer_bytes: queries, keys, values and outputs, in each layer of each guidance pass.
        step_bytes: velocities, in each step, so that each rank has those of all guidance passes.
    """

    layer_bytes: int
    step_bytes: int


def gang_traffic(
    sites: Iterable[SiteLayout],
    span: ChunkSpan,
    latent_shapes: Mapping[str, Sequence[int]],
    degrees: Degrees,
    num_branches: int,
    item_bytes: int,
    sharded: Collection[str] = SHARDED,
) -> GangTraffic:
    """The traffic of a gang, from plain sizes.

    Args:
        sites: the attention sites of the model.
        span: what a pass holds.
        latent_shapes: the shape of one latent by stream; these streams have queries.
        num_branches: guidance passes.
        item_bytes: of the model's dtype.
        sharded: streams that are split between ranks.
    """
    layer = sum(_site_traffic(site, span, latent_shapes, item_bytes, sharded).sent_bytes(degrees) for site in sites)
    counts = {"video": len(span.latents), "audio": len(span.audio_latents)}
    velocities = sum(counts[name] * prod(shape) for name, shape in latent_shapes.items())
    # Each rank sends the velocities of its passes to the ranks that stand at its place for the other passes.
    step = degrees.ulysses * degrees.ring * (degrees.cfg - 1) * num_branches * velocities * item_bytes
    return GangTraffic(layer, step)


def _site_traffic(
    site: SiteLayout, span: ChunkSpan, queried: Collection[str], item_bytes: int, sharded: Collection[str]
) -> SiteTraffic:
    """The traffic of one site. Streams outside `queried` have keys only; streams without pages have queries only."""
    frames = {"video": len(span.latents), "audio": len(span.audio_latents)}
    grids = {
        stream.name: Grid(frames[stream.name], stream.frame_tokens)
        if stream.name in frames
        else Grid(1, stream.page_tokens)
        for stream in site.streams
    }
    queries = {name: grid for name, grid in grids.items() if name in queried}
    keys = {stream.name: grids[stream.name] for stream in site.streams if stream.page_tokens}
    return SiteTraffic(site.num_heads, site.head_dim, queries, keys, item_bytes, sharded)
