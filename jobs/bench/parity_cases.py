"""The short film that `bench parity` shares among ranks, with given latents and a small random denoiser.

It evicts chunks from its window, moves its sink, refreshes, switches its prompt and so replays, cuts, and ends in short
chunks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from longtake.pipeline.attention.context import Pass
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.models.av_dit import AVDiT, AVDiTConfig
from longtake.pipeline.models.protocols import BlockDenoiser, Stream
from longtake.pipeline.models.seeding import seeded
from longtake.pipeline.parallel.context_parallel import SHARDED
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.sampling.noise import KeyedNoise

PLAN = KVPlan(window=2, sink=1)
BRANCHES = ("guided", "unguided")
TEXT_TOKENS, TEXT_WIDTH = 5, 16
AUDIO_CHANNELS, VIDEO_CHANNELS = 6, 4
CHUNK_LATENTS = 3
SIGMA = 0.6


@dataclass(frozen=True)
class Case:
    """A film and how ranks share it.

    Args:
        size: latent height and width, with one token per latent pixel; 1 x 1 leaves some ranks without a token.
        sharded: the streams that are split among ranks.
        client: "av_dit" or "wan".
        masked: whether prompts have padding, which attention ignores.
    """

    degrees: Degrees
    heads: int
    size: tuple[int, int] = (3, 3)
    dtype: torch.dtype = torch.float64
    sharded: tuple[str, ...] = SHARDED
    client: str = "av_dit"
    masked: bool = False

    def __str__(self) -> str:
        degrees = " x ".join(f"{name} {n}" for name, n in vars(self.degrees).items() if n > 1)
        tokens = CHUNK_LATENTS * self.size[0] * self.size[1]
        return (
            f"{self.client}: {degrees}, {self.heads} heads, {tokens} tokens, {self.dtype},"
            f" {'+'.join(self.sharded)} split{', masked' if self.masked else ''}"
        )


@dataclass(frozen=True)
class Film:
    """A short film with given latents, and its denoiser."""

    denoiser: BlockDenoiser
    chunks: tuple[ChunkSpan, ...]
    clock: MediaClock
    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype
    branches: tuple[str, ...]
    seed: int
    text_width: int = TEXT_WIDTH
    masked: bool = False

    def store(self, parallel: Parallel = ONE_RANK) -> KVStore:
        """An empty store for its chunks."""
        _, height, width = self.shapes["video"]
        most_audio = max(len(chunk.audio_latents) for chunk in self.chunks)
        sites = self.denoiser.sites(height, width, CHUNK_LATENTS, most_audio)
        branches = parallel.branches(self.branches)
        return KVStore(sites, PLAN, self.denoiser.rope, branches=branches, dtype=self.dtype, parallel=parallel)

    def streams(self, chunk: ChunkSpan, sigma: float) -> dict[str, Stream]:
        """The chunk's latents at a noise level; clean and noisy latents are different random numbers."""
        spans = {"video": chunk.latents, "audio": chunk.audio_latents}
        times_s = {"video": self.clock.video_times(chunk), "audio": self.clock.audio_times(chunk)}
        out = {}
        for name, shape in self.shapes.items():
            x = KeyedNoise(self.seed + (sigma > 0)).draw(name, spans[name], shape).unsqueeze(0).to(self.dtype)
            out[name] = Stream(x, x.new_full(x.shape[:2], sigma), torch.tensor(times_s[name], dtype=torch.float64))
        return out

    def prompt(self, chunk: ChunkSpan, branch: str) -> Tensor:
        """The prompt tokens [1 l d] of the chunk's scene."""
        generator = torch.Generator().manual_seed(chunk.scene + 100 * BRANCHES.index(branch))
        return torch.randn(1, TEXT_TOKENS, self.text_width, generator=generator, dtype=torch.float64).to(self.dtype)

    def velocities(self, parallel: Parallel = ONE_RANK) -> Iterator[dict[str, Tensor]]:
        """The velocities of each chunk in turn."""
        store = self.store(parallel)
        for chunk in self.chunks:
            yield self.render(store, chunk, parallel)

    @torch.inference_mode()
    def render(self, store: KVStore, chunk: ChunkSpan, parallel: Parallel = ONE_RANK) -> dict[str, Tensor]:
        """The velocities of the noisy chunk by "branch stream"; then commits the clean chunk."""
        if PLAN.is_canonical(chunk.scene_start, chunk.index):
            store.reset()
            for index in PLAN.visible(chunk.section, chunk.index):
                self._pass(store, self.chunks[index], chunk, parallel, 0.0)
        velocities = parallel.all_branches(self._pass(store, chunk, chunk, parallel, SIGMA), self.branches)
        self._pass(store, chunk, chunk, parallel, 0.0)
        return {f"{branch} {name}": v for branch in self.branches for name, v in velocities[branch].items()}

    def _pass(
        self, store: KVStore, chunk: ChunkSpan, scene: ChunkSpan, parallel: Parallel, sigma: float
    ) -> dict[str, dict[str, Tensor]]:
        """One pass in every branch of this rank, with the prompt of `scene`'s scene; commits it if it is clean."""
        denoiser, streams, found = ShardedDenoiser(self.denoiser, parallel), self.streams(chunk, sigma), {}
        seen = {"text": (torch.arange(TEXT_TOKENS) % 3 < 2).unsqueeze(0)} if self.masked else None
        for branch in parallel.branches(self.branches):
            with store.open(chunk, branch, sigma == 0, seen) as context:
                run = Pass(None if sigma == 0 else 0, branch)
                found[branch] = denoiser(streams, self.prompt(scene, branch), context, run)
                if sigma == 0:
                    context.commit()
        return found


def film(case: Case, seed: int = 0) -> Film:
    """A film of nine chunks in three scenes, with a cut before the last one. It has guidance only if ranks share the
    guidance passes."""
    clock = MediaClock(Fraction(16), 16_000, 4, 800)
    durations_s = [Fraction(15, 4), Fraction(1), Fraction(1)]
    chunks = plan_chunks(clock, plan_scenes(clock, durations_s, [True, False, True]), CHUNK_LATENTS)
    shapes: dict[str, tuple[int, ...]] = {"video": (VIDEO_CHANNELS, *case.size)}
    branches = BRANCHES if case.degrees.cfg > 1 else BRANCHES[:1]
    with seeded(seed), torch.inference_mode(False):
        if case.client == "wan":
            from longtake.jobs.bench.tiny_wan import tiny_wan
            from longtake.pipeline.adapters.wan.denoiser import WanDenoiser

            wan = WanDenoiser(tiny_wan(case.heads), text_tokens=TEXT_TOKENS).to(case.dtype)
            return Film(wan, chunks, clock, shapes, case.dtype, branches, seed, 12 * case.heads, case.masked)
        denoiser = AVDiT(config(case.heads)).eval().to(case.dtype)
    shapes["audio"] = (AUDIO_CHANNELS,)
    return Film(denoiser, chunks, clock, shapes, case.dtype, branches, seed, masked=case.masked)


def config(heads: int) -> AVDiTConfig:
    """The configuration of a small `AVDiT`."""
    return AVDiTConfig(
        video_channels=VIDEO_CHANNELS,
        audio_channels=AUDIO_CHANNELS,
        video_width=32,
        audio_width=24,
        text_width=TEXT_WIDTH,
        text_tokens=TEXT_TOKENS,
        num_heads=heads,
        head_dim=8,
        num_layers=2,
        patch=1,
    )


def relative(got: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value; infinite if a value is not a number."""
    difference = (got - expected).abs().max() / expected.abs().max()
    return float(difference.nan_to_num(torch.inf))
