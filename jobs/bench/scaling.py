"""Two ranks compared with one, and with diffusers' Ulysses: one thread each, in passes that are mostly attention.

Every round has a pass on rank 0 alone, an independent pass on each rank at once, and a pass that both share. The
independent passes give the ceiling that the machine sets. Ratios are taken within a round.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from longtake.jobs.bench.diffusers_ulysses import shared_by_ulysses
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.parity_cases import relative
from longtake.jobs.bench.ranks import run_ranks
from longtake.jobs.bench.tiny_wan import tiny_wan
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.attention.context import Pass
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.attention.shares import Grid
from longtake.pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.av_dit import AVDiT, AVDiTConfig
from longtake.pipeline.models.protocols import BlockDenoiser, Stream
from longtake.pipeline.parallel.context_parallel import SHARDED, ContextParallel, context_parallel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.parallel.traffic import SiteTraffic

RANKS = 2
WINDOW, CHUNK_LATENTS, PATCH = 3, 4, 2
HEADS, HEAD_DIM, LAYERS, TEXT_TOKENS = 4, 48, 2, 16


@dataclass(frozen=True)
class Work:
    """How many rounds are measured, and the height and width of a latent."""

    rounds: int
    latent_size: int = 48

    @property
    def frame_tokens(self) -> int:
        """Tokens of a latent frame."""
        return (self.latent_size // PATCH) ** 2


class Passes:
    """Passes of one denoiser over a chunk with a full window before it.

    Args:
        denoiser: with random weights.
        parallel: the ranks that share the passes.
        latent_size: height and width of a latent.
        text_width: width of a prompt token.
        window: chunks that are committed before; 0 caches nothing.
    """

    def __init__(
        self,
        denoiser: BlockDenoiser,
        parallel: Parallel,
        latent_size: int,
        text_width: int,
        window: int = WINDOW,
        text: Tensor | None = None,
    ) -> None:
        clock = MediaClock(Fraction(16), 16_000, 4, 800)
        chunks = plan_chunks(clock, plan_scenes(clock, [Fraction(window + 1)], [True]), CHUNK_LATENTS)
        most_audio = max(len(chunk.audio_latents) for chunk in chunks)
        sites = denoiser.sites(latent_size, latent_size, CHUNK_LATENTS, most_audio)
        self._video_shape = (4, latent_size, latent_size)
        self._denoiser, self._clock, self.chunk = ShardedDenoiser(denoiser, parallel), clock, chunks[-1]
        self._store = KVStore(sites, KVPlan(WINDOW), denoiser.rope, parallel=parallel)
        generator = torch.Generator().manual_seed(1)
        self._text = torch.randn(1, TEXT_TOKENS, text_width, generator=generator) if text is None else text
        for chunk in chunks[:-1]:
            with self._store.open(chunk, "guided", write=True) as context:
                self._denoiser(self.streams(chunk), self._text, context, Pass(None, "guided"))
                context.commit()
        self._inputs = self.streams(self.chunk)

    def streams(self, chunk: ChunkSpan) -> dict[str, Stream]:
        """Random latents at noise level 0.5."""
        generator = torch.Generator().manual_seed(chunk.index)
        video = torch.randn(1, len(chunk.latents), *self._video_shape, generator=generator)
        audio = torch.randn(1, len(chunk.audio_latents), 6, generator=generator)
        times_s = {"video": self._clock.video_times(chunk), "audio": self._clock.audio_times(chunk)}
        return {
            name: Stream(x, x.new_full(x.shape[:2], 0.5), torch.tensor(times_s[name], dtype=torch.float64))
            for name, x in (("video", video), ("audio", audio))
        }

    def __call__(self) -> Tensor:
        """One pass over the last chunk. Returns its video velocity."""
        with self._store.open(self.chunk, "guided") as context:
            return self._denoiser(self._inputs, self._text, context, Pass(0, "guided"))["video"]


@dataclass(frozen=True)
class Measured:
    """The measurements of one rank.

    Args:
        seconds: of each kind of pass, by round.
        sent: bytes that this rank sent in one shared pass.
        planned: bytes that all ranks should send in one shared pass.
    """

    seconds: Mapping[str, Sequence[float]]
    sent: int
    planned: int


def on_rank(work: Work, seed: int, rank: int) -> Measured:
    """All rounds on one of two ranks."""
    torch.set_grad_enabled(False)
    parallel = context_parallel(Degrees(ulysses=RANKS))
    torch.manual_seed(seed)
    own = AVDiT(config()).eval()
    alone, shared = (Passes(own, ranks, work.latent_size, 16) for ranks in (ONE_RANK, parallel))
    meet = partial(parallel.gather, "video", torch.zeros(1, 1, 1, 1), RANKS)
    before = parallel.ulysses.sent_bytes
    shared()
    sent = parallel.ulysses.sent_bytes - before
    passes = {"solo": alone if rank == 0 else None, "apart": alone, "shared": shared}
    with _of_wan(parallel, work, seed) as wans:
        seconds = _rounds(work.rounds, meet, {**passes, **wans})
    return Measured(seconds, sent, _planned_bytes(shared.chunk, work))


def config() -> AVDiTConfig:
    """The widths of the built-in model, for a larger picture."""
    return AVDiTConfig(
        video_channels=4,
        audio_channels=6,
        text_width=16,
        text_tokens=TEXT_TOKENS,
        num_heads=HEADS,
        head_dim=HEAD_DIM,
        num_layers=LAYERS,
        patch=PATCH,
    )


@contextmanager
def _of_wan(parallel: ContextParallel, work: Work, seed: int) -> Iterator[dict[str, Callable[[], Tensor]]]:
    """Passes of the same Wan with our Ulysses and with diffusers', over one chunk, since diffusers has no cache."""
    transformers = []
    for _ in range(2):
        torch.manual_seed(seed)
        transformers.append(tiny_wan(HEADS, HEAD_DIM, LAYERS, patch=PATCH))
    width = HEADS * HEAD_DIM
    denoiser = WanDenoiser(transformers[0], text_tokens=TEXT_TOKENS)
    text = torch.randn(1, TEXT_TOKENS, 16)
    ours = Passes(denoiser, parallel, work.latent_size, width, window=0, text=denoiser.project(text))
    video = ours.streams(ours.chunk)["video"]
    x = video.latents.transpose(1, 2)

    def theirs() -> Tensor:
        timestep = (1000 * video.sigma).repeat_interleave(work.frame_tokens, dim=1)
        out: Tensor = transformers[1](x, timestep, text, return_dict=False)[0]
        return out.transpose(1, 2)

    with shared_by_ulysses(transformers[1], RANKS):
        assert relative(ours(), theirs()) <= 1e-5, "diffusers' Ulysses computes something else"
        yield {"ours": ours, "theirs": theirs}


def _rounds(
    rounds: int, meet: Callable[[], object], passes: Mapping[str, Callable[[], Tensor] | None]
) -> dict[str, list[float]]:
    """Seconds of each pass by round. All ranks start a pass together; one round before is for warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds + 1):
        for name, run in passes.items():
            meet()
            started = perf_counter()
            if run is not None:
                run()
            seconds[name].append(perf_counter() - started)
    return {name: values[1:] for name, values in seconds.items()}


def _planned_bytes(chunk: ChunkSpan, work: Work) -> int:
    """Bytes that all ranks should send in one pass."""
    streams = {"video": Grid(CHUNK_LATENTS, work.frame_tokens), "audio": Grid(1, len(chunk.audio_latents))}
    site = SiteTraffic(HEADS, HEAD_DIM, streams, streams, item_bytes=4, sharded=SHARDED)
    return LAYERS * site.sent_bytes(Degrees(ulysses=RANKS))


def measure(options: BenchOptions) -> Mapping[str, float]:
    """One gang of two ranks, one thread each."""
    if options.ranks not in (None, RANKS):
        raise SpecError(f"scaling compares {RANKS} ranks with one; leave out --ranks {options.ranks}")
    work = options.pick(full=Work(9), quick=Work(5), smoke=Work(1, latent_size=4))
    ranks = run_ranks(partial(on_rank, work, options.seed), RANKS)

    def slowest(name: str) -> list[float]:
        """Seconds of the slower rank, by round."""
        return [max(seconds) for seconds in zip(*(rank.seconds[name] for rank in ranks), strict=True)]

    def ratio(above: str, below: str) -> float:
        return median(over / under for over, under in zip(slowest(above), slowest(below), strict=True))

    return {
        "speedup_2": ratio("solo", "shared"),
        "ceiling_2": RANKS * ratio("solo", "apart"),
        "efficiency_2": ratio("apart", "shared") / RANKS,
        "bytes_ratio": sum(rank.sent for rank in ranks) / ranks[0].planned,
        "vs_diffusers": ratio("theirs", "ours"),
    }
