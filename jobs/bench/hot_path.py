"""What one pass asks of a GPU, counted on a CPU at the real sizes of published weights, next to diffusers' own pass.

Nothing is computed: tensors are fake, see `CountingDevice`. Each network is built with one layer and with two, and the
difference is a layer. A film is resumed at a chunk that sees a full window; the second step of that chunk counts.
Only the host's time is measured, on tiny networks that compute for real, as a ratio to diffusers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from time import process_time
from typing import Any
from unittest import mock

import torch
from diffusers import LTX2VideoTransformer3DModel, WanTransformer3DModel
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.jobs.bench.compiled_blocks import compiled
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.tiny_wan import tiny_wan
from longtake.pipeline.adapters.ltx2.denoiser import LTX2Denoiser, text_widths
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.attention import kernels
from longtake.pipeline.attention.context import AttentionContext, Pass
from longtake.pipeline.attention.gpu_kernels import flash
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.models.av_dit import AVDiT, AVDiTConfig
from longtake.pipeline.models.protocols import BlockDenoiser, Denoiser, Stream
from longtake.pipeline.parallel.context_parallel import ContextParallel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.parallel.group import Group
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.guidance import ClassifierFree
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.solver import Renoise
from longtake.pipeline.testing.counting_device import CUDA, CountingDevice, Counts
from longtake.pipeline.values import LatentChunk, PromptEmbedding

PLAN = KVPlan(window=1, sink=1)
STEPS = (1.0, 0.5, 0.0)
ULYSSES = 8
BF16 = torch.bfloat16


@dataclass(frozen=True)
class Family:
    """A model family at the size of its published weights.

    Args:
        build: the network with some number of layers, on the device.
        dtype: of its weights.
        denoiser: our denoiser over that network.
        theirs: runs diffusers' own pass over the network; None for a family that diffusers does not have.
        clock: of its films.
        chunk_latents: of a chunk.
        shapes: of a latent, by stream.
        text: tokens of a prompt, and their width.
        scale: of guidance.
    """

    build: Callable[[CountingDevice, int], Any]
    dtype: torch.dtype
    denoiser: Callable[[Any], BlockDenoiser]
    theirs: Callable[[Any, Mapping[str, int]], object] | None
    clock: MediaClock
    chunk_latents: int
    shapes: Mapping[str, tuple[int, ...]]
    text: tuple[int, int]
    scale: float = 1.0

    def chunks(self) -> tuple[ChunkSpan, ...]:
        """Chunks of one scene; the last one sees a full sink and window."""
        frames = self.clock.frames(self.chunk_latents * PLAN.num_pages)
        return plan_chunks(self.clock, plan_scenes(self.clock, [frames / self.clock.fps], [True]), self.chunk_latents)


def wan(device: CountingDevice, layers: int) -> WanTransformer3DModel:
    """Wan 2.1 1.3B."""
    with torch.device("meta"):
        network = WanTransformer3DModel(
            num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=layers, text_dim=4096
        )
    return device.moved(network, BF16, network._keep_in_fp32_modules)


def their_wan(network: Any, counts: Mapping[str, int]) -> object:
    """diffusers' pass over a chunk of Wan at 832x480, without anything before it."""
    x = torch.empty(1, 16, counts["video"], 60, 104, device=CUDA, dtype=BF16)
    text = torch.empty(1, 512, 4096, device=CUDA, dtype=BF16)
    return network(x, torch.empty(1, device=CUDA), text, return_dict=False)


def ltx2(device: CountingDevice, layers: int) -> LTX2VideoTransformer3DModel:
    """LTX-2 19B."""
    with torch.device("meta"):
        network = LTX2VideoTransformer3DModel(num_layers=layers, rope_type="split")
    return device.moved(network, BF16)


def their_ltx2(network: Any, counts: Mapping[str, int]) -> object:
    """diffusers' pass over a chunk of LTX-2 at 768x512, as its pipeline runs it, without anything before it."""
    tokens, sound = counts["video"] * 16 * 24, counts["audio"]

    def empty(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
        return torch.empty(1, *shape, device=CUDA, dtype=dtype)

    text = empty(1024, text_widths(network.config)[0])
    return network(
        *(empty(tokens, 128), empty(sound, 128), text, text),
        timestep=empty(1, dtype=torch.float32),
        sigma=torch.empty(1, device=CUDA),
        video_coords=empty(3, tokens, 2, dtype=torch.float32),
        audio_coords=empty(1, sound, 2, dtype=torch.float32),
        return_dict=False,
    )


def shapes(device: CountingDevice, layers: int) -> AVDiT:
    """The architecture of the built-in model."""
    return device.moved(AVDiT(AVDiTConfig(num_layers=layers)), torch.float32)


FAMILIES: Mapping[str, Family] = {
    "wan": Family(
        *(wan, BF16, WanDenoiser, their_wan),
        clock=MediaClock(Fraction(16), 16_000, 4, 800, first_latent_frames=1, audio_centre=Fraction(0)),
        chunk_latents=3,
        shapes={"video": (16, 60, 104), "audio": (0,)},
        text=(512, 12 * 128),
    ),
    "ltx2": Family(
        *(ltx2, BF16, LTX2Denoiser, their_ltx2),
        clock=MediaClock(Fraction(24), 24_000, 8, 960, first_latent_frames=1, audio_centre=Fraction(-1, 4)),
        chunk_latents=3,
        shapes={"video": (128, 16, 24), "audio": (128,)},
        text=(1024, 2 * 3840),
    ),
    "built_in": Family(
        *(shapes, torch.float32, lambda network: network, None),
        clock=MediaClock(Fraction(24), 16_000, 4, 800),
        chunk_latents=4,
        shapes={"video": (12, 16, 16), "audio": (48,)},
        text=(16, 128),
        scale=2.0,
    ),
}


class Spy(Denoiser):
    """A denoiser that remembers what the device was asked by the beginning and by the end of each pass."""

    def __init__(self, inner: Denoiser, counts: Callable[[], Counts]) -> None:
        self._inner, self._counts = inner, counts
        self.passes: list[tuple[Pass, Counts, Counts]] = []

    @override
    def __call__(
        self, streams: Mapping[str, Stream], text: Tensor, context: AttentionContext, run: Pass
    ) -> dict[str, Tensor]:
        before = self._counts()
        velocities = self._inner(streams, text, context, run)
        self.passes.append((run, before, self._counts()))
        return velocities


class Silent(Group):
    """A group of which this is the only process: it sends nothing, and counts."""

    def __init__(self, index: int, size: int) -> None:
        self.index, self.size, self.sent_bytes = index, size, 0
        self.messages = self.collectives = 0

    @override
    def start(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor]) -> Callable[[], None]:
        self.messages += sum(bool(tensor.numel()) for tensor in (*outgoing.values(), *incoming.values()))
        return lambda: None

    @override
    def all_to_all(self, packed: Tensor, sizes: Sequence[int], arriving: Sequence[int]) -> Tensor:
        self.collectives += 1
        return packed.new_empty(sum(arriving))


@contextmanager
def counting() -> Iterator[CountingDevice]:
    """A device that counts, on which attention is one kernel."""
    device = CountingDevice()
    with torch.inference_mode(), device, mock.patch.object(kernels, "kernel_for", return_value=flash):
        yield device


@dataclass(frozen=True)
class Work:
    """What was counted with some number of layers: in one pass, and in the step loop of a whole chunk."""

    one_pass: Counts
    loop: Counts


def count(family: Family, layers: int, parallel: Parallel = ONE_RANK) -> Work:
    """The work of the last chunk of a film."""
    with counting() as device:
        denoiser = family.denoiser(family.build(device, layers))
        chunks, (_, height, width) = family.chunks(), family.shapes["video"]
        sound = max(len(chunk.audio_latents) for chunk in chunks)
        sites = denoiser.sites(height, width, max(len(chunk.latents) for chunk in chunks), sound)
        guidance = ClassifierFree(family.scale)
        kept: dict[str, Any] = {"branches": guidance.branches, "dtype": family.dtype, "device": CUDA}
        store = KVStore(sites, PLAN, denoiser.rope, parallel=parallel, **kept)
        sampling = Sampling(dict.fromkeys(family.shapes, STEPS), Renoise(), guidance, KeyedNoise(0))
        spy = Spy(ShardedDenoiser(denoiser, parallel), device.counts)
        engine = CausalEngine(spy, store, family.clock, sampling, family.shapes)
        prompts = {
            branch: PromptEmbedding(branch, torch.zeros(*family.text, dtype=family.dtype))
            for branch in guidance.branches
        }
        *before_it, chunk = chunks
        engine.resume([_finished(family, one) for one in before_it], chunk, prompts)
        resumed = len(spy.passes)
        engine.denoise(chunk, prompts)
    steps = [(before, after) for run, before, after in spy.passes[resumed:] if run.step is not None]
    before, after = steps[len(guidance.branches)]
    return Work(after - before, steps[-1][1] - steps[0][0])


def _finished(family: Family, chunk: ChunkSpan) -> LatentChunk:
    """Latents of a chunk that was rendered before."""
    counts = {"video": len(chunk.latents), "audio": len(chunk.audio_latents)}
    return LatentChunk(chunk, **{name: torch.zeros(counts[name], *shape) for name, shape in family.shapes.items()})


def count_theirs(family: Family, layers: int) -> Counts:
    """The work of diffusers' own pass over one chunk."""
    assert family.theirs is not None
    chunk = family.chunks()[-1]
    with counting() as device:
        network = family.build(device, layers)
        before = device.counts()
        family.theirs(network, {"video": len(chunk.latents), "audio": len(chunk.audio_latents)})
        return device.counts() - before


def exchanged(degree: int = ULYSSES) -> tuple[float, float, int]:
    """Of a causal Wan under Ulysses, in each layer of a pass: collectives, messages from rank to rank, and kernels."""

    def sent(layers: int) -> tuple[int, int, int]:
        degrees = Degrees(ulysses=degree)
        groups: list[Silent] = []

        def group(places: Sequence[Any]) -> Silent:
            groups.append(Silent(0, len(places)))
            return groups[-1]

        parallel = ContextParallel(degrees, degrees.place(0), group)
        work = count(FAMILIES["wan"], layers, parallel)
        return groups[0].collectives, groups[0].messages, work.one_pass.kernels

    passes = len(FAMILIES["wan"].chunks()) - 1 + len(STEPS)
    collectives, messages, kernels_ = (two - one for one, two in zip(sent(1), sent(2), strict=True))
    return collectives / passes, messages / passes, kernels_


@torch.inference_mode()
def host_time(rounds: int) -> tuple[float, float]:
    """CPU microseconds that a layer of a tiny Wan costs the host in each pass, ours and diffusers': the least of all
    rounds, which take turns."""
    seconds: dict[tuple[str, int], float] = {}
    runs: dict[tuple[str, int], Callable[[], object]] = {}
    torch.manual_seed(0)
    x, text, timestep = torch.randn(1, 4, 1, 4, 4), torch.randn(1, 16, 16), torch.tensor([500.0])
    for layers in (2, 6):
        theirs, ours = (tiny_wan(2, 12, layers) for _ in range(2))
        runs["theirs", layers] = partial(theirs, x, timestep, text, return_dict=False)
        runs["ours", layers] = _our_pass(WanDenoiser(ours, text_tokens=16), x, text)
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            started = process_time()
            for _ in range(5):
                run()
            seconds[name] = min(seconds.get(name, torch.inf), (process_time() - started) / 5)
    ours, theirs = (1e6 * (seconds[who, 6] - seconds[who, 2]) / 4 for who in ("ours", "theirs"))
    return ours, theirs


def _our_pass(denoiser: WanDenoiser, x: Tensor, text: Tensor) -> Callable[[], object]:
    latents = rearrange(x, "b c f h w -> b f c h w")
    store = KVStore(denoiser.sites(4, 4, 1, 0), KVPlan(1), denoiser.rope)
    sigma = torch.full((1, 1), 0.5)
    stream, prompt = Stream(latents, sigma, torch.zeros(1, dtype=torch.float64)), denoiser.project(text)
    whole = ShardedDenoiser(denoiser, ONE_RANK)
    clock = FAMILIES["wan"].clock
    chunk = plan_chunks(clock, plan_scenes(clock, [1 / clock.fps], [True]), 1)[0]

    def run() -> object:
        with store.open(chunk, "guided") as context:
            return whole({"video": stream}, prompt, context, Pass(0, "guided"))

    return run


@cache
def counted() -> Mapping[str, float]:
    """All figures that are the same in every run."""
    found: dict[str, float] = {"host_syncs_per_pass": 0.0, "transfers_in_loop": 0.0}
    for name, family in FAMILIES.items():
        one, two = (count(family, layers) for layers in (1, 2))
        layer, outside = two.one_pass - one.one_pass, one.one_pass + one.one_pass - two.one_pass
        found |= {
            f"{name}_kernels": layer.kernels,
            f"{name}_elementwise": layer.elementwise,
            f"{name}_elementwise_mb": layer.elementwise_bytes / 1e6,
            f"{name}_casts": layer.casts,
            f"{name}_views": layer.views,
            f"{name}_kernels_outside": outside.kernels,
        }
        found["host_syncs_per_pass"] = max(found["host_syncs_per_pass"], two.one_pass.syncs)
        found["transfers_in_loop"] = max(found["transfers_in_loop"], two.loop.transfers)
        if family.theirs is not None:
            theirs = count_theirs(family, 2) - count_theirs(family, 1)
            found[f"{name}_kernels_diffusers"] = theirs.kernels
            found[f"{name}_kernels_vs_diffusers"] = layer.kernels / theirs.kernels
            found[f"{name}_elementwise_mb_diffusers"] = theirs.elementwise_bytes / 1e6
    names = ("collectives_per_layer", "messages_per_layer", "ulysses_kernels")
    found["graph_breaks"], found["compiled_error"] = compiled()
    return found | dict(zip(names, exchanged(), strict=True))


def measure(options: BenchOptions) -> Mapping[str, float]:
    """All figures."""
    torch.set_num_threads(1)
    ours, theirs_us = host_time(options.pick(full=40, quick=20, smoke=1))
    return {**counted(), "host_us_per_layer": ours, "host_us_vs_diffusers": ours / theirs_us}
