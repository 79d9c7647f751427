"""Many ranks render what one renders: the largest difference over degrees, heads, sizes and the life of a store.

Every case drives one short film, chunk by chunk, through a store that several ranks share, and the same film through
one rank's store: noisy passes in both branches, clean passes over given latents, so that every chunk starts from the
same context. The film evicts from its window, moves its sink, refreshes, switches its prompt (and so replays), cuts,
and ends in short chunks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial
from hashlib import sha256
from itertools import chain, product

import torch
from torch import Tensor

from longtake.jobs.bench import Bench, BenchOptions, Figure
from longtake.jobs.bench.film_parity import CHUNKS, FilmCase, diverge_all
from longtake.jobs.bench.ranks import run_ranks
from longtake.pipeline.attention.exchange import ONE_RANK, Parallel
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.models.av_dit import AVDiT, AVDiTConfig
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.models.seeding import seeded
from longtake.pipeline.parallel.context_parallel import SHARDED, ContextParallel, context_parallel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.sharded_denoiser import BlockDenoiser, ShardedDenoiser
from longtake.pipeline.sampling.noise import KeyedNoise

PLAN = KVPlan(window=2, sink=1)
BRANCHES = ("guided", "unguided")
TEXT_TOKENS, TEXT_WIDTH = 5, 16
AUDIO_CHANNELS, VIDEO_CHANNELS = 6, 4
CHUNK_LATENTS = 3
SIGMA = 0.6


@dataclass(frozen=True)
class Case:
    """One way to share, and what is shared.

    Args:
        size: latent height and width, at one token per latent pixel; 1 x 1 leaves ranks without a token.
        sharded: streams that are cut.
        client: "av_dit" or "wan".
        masked: whether prompts are padded, and the padding is not attended to.
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
            f"{self.client}: {degrees}, {self.heads} heads, {tokens} tokens, {self.dtype}, {'+'.join(self.sharded)} cut"
            f"{', masked' if self.masked else ''}"
        )


@dataclass(frozen=True)
class Film:
    """A short film for one denoiser, its latents given."""

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
        """An empty store with room for its chunks."""
        _, height, width = self.shapes["video"]
        most_audio = max(len(chunk.audio_latents) for chunk in self.chunks)
        sites = self.denoiser.sites(height, width, CHUNK_LATENTS, most_audio)
        branches = parallel.branches(self.branches)
        return KVStore(sites, PLAN, self.denoiser.rope, branches=branches, dtype=self.dtype, parallel=parallel)

    def streams(self, chunk: ChunkSpan, sigma: float) -> dict[str, Stream]:
        """The chunk at a noise level; its clean and its noisy latents are different random numbers."""
        spans = {"video": chunk.latents, "audio": chunk.audio_latents}
        times_s = {"video": self.clock.video_times(chunk), "audio": self.clock.audio_times(chunk)}
        out = {}
        for name, shape in self.shapes.items():
            x = KeyedNoise(self.seed + (sigma > 0)).draw(name, spans[name], shape).unsqueeze(0).to(self.dtype)
            out[name] = Stream(x, x.new_full(x.shape[:2], sigma), torch.tensor(times_s[name], dtype=torch.float64))
        return out

    def prompt(self, chunk: ChunkSpan, branch: str) -> Tensor:
        """The tokens [1 l d] that the chunk is rendered under."""
        generator = torch.Generator().manual_seed(chunk.scene + 100 * BRANCHES.index(branch))
        return torch.randn(1, TEXT_TOKENS, self.text_width, generator=generator, dtype=torch.float64).to(self.dtype)

    def velocities(self, parallel: Parallel = ONE_RANK) -> Iterator[dict[str, Tensor]]:
        """The velocities of each chunk in turn."""
        store = self.store(parallel)
        for chunk in self.chunks:
            yield self.render(store, chunk, parallel)

    @torch.inference_mode()
    def render(self, store: KVStore, chunk: ChunkSpan, parallel: Parallel = ONE_RANK) -> dict[str, Tensor]:
        """The velocities of the noisy chunk, by "branch stream"; afterwards the clean chunk is committed."""
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
        """One pass in every branch of this rank, under the prompt of `scene`'s scene; clean ones are committed."""
        denoiser, streams, found = ShardedDenoiser(self.denoiser, parallel), self.streams(chunk, sigma), {}
        seen = {"text": (torch.arange(TEXT_TOKENS) % 3 < 2).unsqueeze(0)} if self.masked else None
        for branch in parallel.branches(self.branches):
            with store.open(chunk, branch, sigma == 0, seen) as context:
                found[branch] = denoiser(streams, self.prompt(scene, branch), context)
                if sigma == 0:
                    context.commit()
        return found


def film(case: Case, seed: int = 0) -> Film:
    """A film of nine chunks in three scenes, the last one behind a cut, for a small random denoiser; guided only where
    ranks share the guidance passes."""
    clock = MediaClock(Fraction(16), 16_000, 4, 800)
    durations_s = [Fraction(15, 4), Fraction(1), Fraction(1)]
    chunks = plan_chunks(clock, plan_scenes(clock, durations_s, [True, False, True]), CHUNK_LATENTS)
    shapes: dict[str, tuple[int, ...]] = {"video": (VIDEO_CHANNELS, *case.size)}
    branches = BRANCHES if case.degrees.cfg > 1 else BRANCHES[:1]
    with seeded(seed), torch.inference_mode(False):
        if case.client == "wan":
            from longtake.jobs.bench.diffusers_ulysses import tiny_wan
            from longtake.pipeline.adapters.wan.denoiser import WanDenoiser

            wan = WanDenoiser(tiny_wan(case.heads), text_tokens=TEXT_TOKENS).to(case.dtype)
            return Film(wan, chunks, clock, shapes, case.dtype, branches, seed, 12 * case.heads, case.masked)
        denoiser = AVDiT(config(case.heads)).eval().to(case.dtype)
    shapes["audio"] = (AUDIO_CHANNELS,)
    return Film(denoiser, chunks, clock, shapes, case.dtype, branches, seed, masked=case.masked)


def config(heads: int) -> AVDiTConfig:
    """A small `AVDiT`."""
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
    """The largest difference over the largest value; infinite where a value is not a number."""
    difference = (got - expected).abs().max() / expected.abs().max()
    return float(difference.nan_to_num(torch.inf))


@dataclass(frozen=True)
class Outcome:
    """One case on one rank: a digest of all velocities, and on rank 0 how far they are from one rank's."""

    digest: str
    difference: float = 0.0


@cache
def alone(case: Case, seed: int) -> list[dict[str, Tensor]]:
    """The velocities of a film that one rank renders."""
    return list(film(case, seed).velocities())


def compare(case: Case, seed: int, parallel: ContextParallel) -> Outcome:
    """On one rank: the film as all ranks share it, over all chunks, branches and streams."""
    shared = list(film(case, seed).velocities(parallel))
    digest = sha256()
    for velocity in chain.from_iterable(velocities.values() for velocities in shared):
        digest.update(velocity.numpy().tobytes())
    if parallel.place != (0, 0, 0):
        return Outcome(digest.hexdigest())
    whole = alone(replace(case, degrees=Degrees(cfg=case.degrees.cfg), sharded=SHARDED), seed)
    pairs = zip(shared, whole, strict=True)
    return Outcome(digest.hexdigest(), max(relative(got[key], expected[key]) for got, expected in pairs for key in got))


def compare_all(cases: Sequence[Case], seed: int, rank: int) -> dict[Case, Outcome]:
    """On rank `rank`: every case for which it is needed, in order."""
    return {
        case: compare(case, seed, context_parallel(case.degrees, range(case.degrees.ranks), sharded=case.sharded))
        for case in cases
        if rank < case.degrees.ranks
    }


def matrix(num_ranks: int, heads: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[Case]:
    """Every way to share among up to `num_ranks` ranks, with these heads and sizes, in both precisions."""
    ways = [Degrees(ulysses=n) for n in range(2, num_ranks + 1)] + [Degrees(ring=n) for n in range(2, num_ranks + 1)]
    ways += [Degrees(cfg=2), Degrees(cfg=2, ulysses=2), Degrees(cfg=2, ring=2), Degrees(ulysses=2, ring=2)]
    ways = [degrees for degrees in ways if degrees.ranks <= num_ranks]
    cases = [Case(*case) for case in product(ways, heads, sizes, (torch.float32, torch.float64))]
    # diffusers computes norms and modulation of Wan in float32, whatever its weights.
    cases += [Case(*case, client="wan") for case in product(ways, heads, sizes, (torch.float32,))]
    masked = [replace(case, masked=True) for case in cases if case.heads == heads[-1] and case.size == sizes[0]]
    return cases + masked


def measure(options: BenchOptions) -> Mapping[str, float]:
    """The whole matrix, in one gang of gloo ranks with one thread each; then diffusers' Ulysses on the same shapes."""
    from longtake.jobs.bench.diffusers_row import their_differences

    num_ranks = options.ranks or 4
    heads, sizes = ((3, 4), [(3, 3), (2, 4)]) if options.quick else ((3, 4, 5, 12), [(3, 3), (2, 4), (1, 1)])
    cases = matrix(num_ranks, heads, sizes)
    results = run_ranks(partial(compare_all, cases, options.seed), num_ranks)
    ours = {case: outcome.difference for case, outcome in results[0].items()}
    theirs = their_differences(list(product(heads, sizes)), range(2, num_ranks + 1), options.seed)
    for (ranks, (num_heads, size)), their in theirs.items():
        case = Case(Degrees(ulysses=ranks), num_heads, size, torch.float32, client="wan")
        verdict = f"differs by {their:.1e}" if isinstance(their, float) else f"refuses ({their})"
        print(f"{case}: ours differs by {ours[case]:.1e}, diffusers {verdict}")
    films = _films(options)
    ran = [their for their in theirs.values() if isinstance(their, float)]
    return {
        "cases": len(cases),
        "max_rel_float32": max(value for case, value in ours.items() if case.dtype == torch.float32),
        "max_rel_float64": max(value for case, value in ours.items() if case.dtype == torch.float64),
        "ranks_that_differ": sum(
            rank[case].digest != outcome.digest
            for case, outcome in results[0].items()
            for rank in results
            if case in rank
        ),
        **films,
        "diffusers_max_rel_float32": max(ran, default=float("nan")),
        "diffusers_refused": len(theirs) - len(ran),
    }


def _films(options: BenchOptions) -> dict[str, float]:
    """Films of two and of three ranks, chunk by chunk beside the film of one."""
    ways = [Degrees(ulysses=2), Degrees(ring=3)]
    chunks = 8 if options.quick else CHUNKS
    models = ["tiny"] if options.quick else ["tiny", "sounding-shapes"]
    single = [FilmCase(way, model, torch.float32, chunks, options.seed) for way in ways for model in models]
    double = [FilmCase(way, "tiny", torch.float64, chunks, options.seed) for way in ways]
    found = run_ranks(partial(diverge_all, single + double), 3)[0]
    for case in single:
        over_time = ", ".join(f"{value:.0e}" for value in found[case].free)
        print(f"{case}: left to itself it differs, chunk by chunk, by {over_time}")
    return {
        "film_chunk_rel_float32": max(max(found[case].from_one_rank) for case in single),
        "film_free_rel_float64": max(max(found[case].free) for case in double),
        "film_free_rel_float32": max(found[case].free[-1] for case in single),
    }


BENCH = Bench(
    {
        "cases": Figure("ways to share x heads x sizes x precisions x models that were compared"),
        "max_rel_float32": Figure("largest difference from one rank over the largest value, float32", at_most=1e-5),
        "max_rel_float64": Figure("the same in float64", at_most=1e-12),
        "ranks_that_differ": Figure("ranks whose result is not that of rank 0, bit for bit", at_most=0),
        "film_chunk_rel_float32": Figure(
            "a film of 2 and of 3 ranks, each chunk from the context of one rank: its largest difference", at_most=1e-5
        ),
        "film_free_rel_float64": Figure("the film left to itself in float64, its worst chunk", at_most=1e-8),
        "film_free_rel_float32": Figure("the film left to itself in float32, its last chunk: rounding, grown"),
        "diffusers_max_rel_float32": Figure("largest difference of diffusers' Ulysses, uncached, where it runs"),
        "diffusers_refused": Figure("shapes of these that diffusers' Ulysses refuses, in its mode for anything too"),
    },
    measure,
)
