"""What a GPU makes of longtake, in eight minutes: the machine, attention, ranks, causal Wan, its decoder and its text
encoder, a whole film, upscalers, and weights on their way to the device.

Weights are random, at the sizes of published models. Each block prints its figures to standard error at once, so that a
run that is cut short, or a block that fails, costs no other block its figures; what was not measured is null. Without a
GPU only `--smoke` runs: the same code on a CPU at toy sizes.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import nan
from statistics import median
from time import perf_counter
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel
from typing_extensions import override

from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.gpu_pipeline import film, load, ranks, upscale
from longtake.jobs.bench.gpu_setting import PUBLISHED, TOY, Setting
from longtake.jobs.bench.table import BENCHES
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.adapters.wan.video_codec import WanVideoCodec
from longtake.pipeline.attention.context import AttentionContext, Pass
from longtake.pipeline.attention.gpu_kernels import GPU_KERNELS
from longtake.pipeline.attention.kernels import Kernel, cpu_flash, prove
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.errors import CapacityError, KernelError, LongtakeError
from longtake.pipeline.models.compiled import compile_blocks
from longtake.pipeline.models.devices import settle
from longtake.pipeline.models.protocols import Denoiser, Stream
from longtake.pipeline.parallel.gang import ONE_RANK
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.guidance import ClassifierFree
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.solver import Renoise
from longtake.pipeline.values import LatentChunk, PromptEmbedding

TOTAL_S = 440.0
"""After so many seconds no further block begins."""
LEVELS = (1.0, 0.9375, 5 / 6, 0.625, 0.0)
"""Noise levels of the four steps of Self-Forcing and LongLive."""
CLOCK = MediaClock(Fraction(16), 16_000, 4, 800, first_latent_frames=1, audio_centre=Fraction(0))
CHUNK_LATENTS = 3
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


# ------------------------------------------------------------------ blocks


def machine(setting: Setting) -> Mapping[str, float]:
    """What the device does at best."""
    size, device = setting.sizes.matrix, setting.device
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    host = torch.empty(4 * size * size, dtype=torch.uint8)
    pinned = host.pin_memory() if device == "cuda" else host
    other = torch.empty_like(a)
    return {
        "matmul_tflops": 2 * size**3 / setting.seconds(lambda: a @ b) / 1e12,
        "copy_tb_s": 2 * a.nbytes / setting.seconds(lambda: other.copy_(a)) / 1e12,
        "pageable_gb_s": host.nbytes / setting.seconds(lambda: host.to(device, copy=True)) / 1e9,
        "pinned_gb_s": host.nbytes / setting.seconds(lambda: pinned.to(device, copy=True, non_blocking=True)) / 1e9,
    }


def attention(setting: Setting) -> Mapping[str, float]:
    """Every kernel that proves itself, at the shape of a causal Wan with a full window; 0 for one that does not."""
    found: dict[str, float] = {}
    heads, queries, keys = setting.sizes.attention
    kernels: Sequence[Kernel] = GPU_KERNELS if setting.device == "cuda" else (cpu_flash,)
    for precision, dtype in DTYPES.items():
        q, k, v = (torch.randn(1, heads, n, 128, device=setting.device).to(dtype) for n in (queries, keys, keys))
        for kernel in kernels:
            name = f"{kernel.__name__.removeprefix('cpu_')}_{precision}_tflops"
            try:
                prove(kernel, setting.device, dtype, 128)
                seconds = setting.seconds(lambda: kernel(q, k, v, None))  # noqa: B023 (called at once)
                found[name] = 4 * heads * queries * keys * 128 / seconds / 1e12
            except KernelError:
                found[name] = 0.0
    return found


def equality(setting: Setting) -> Mapping[str, float]:
    """Whether a tiny film is the same on this device as on a CPU, and the same when it is rendered twice; and whether a
    pass waits for the device."""
    (cpu, _), (ours, rendered), (again, _) = (_tiny_film(device) for device in ("cpu", setting.device, setting.device))
    away = max(float((a.video - b.video).abs().max()) for a, b in zip(cpu, ours, strict=True))
    same = all(torch.equal(a.video, b.video) for a, b in zip(ours, again, strict=True))
    return {"cuda_away_from_cpu": away, "renders_that_differ": float(not same), "waits": float(rendered.spy.waits)}


def denoise(setting: Setting) -> Mapping[str, float]:
    """Causal Wan 1.3B in bf16 with both published windows: chunks that see a full one."""
    found: dict[str, float] = {}
    for name, plan in {"longlive": KVPlan(2, 1), "self_forcing": KVPlan(6, 0)}.items():
        wan, frames = Film(setting, setting.sizes.wan, plan), CHUNK_LATENTS * 4
        chunk_s, launch_s = wan.time(setting.repeats)
        found |= {f"{name}_chunk_ms": 1e3 * chunk_s, f"{name}_fps": frames / chunk_s}
        found |= {f"{name}_launch_ms": 1e3 * launch_s}
    if setting.device == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def compiled(setting: Setting) -> Mapping[str, float]:
    """Causal Wan 1.3B with compiled blocks; a rehearsal runs the operations of their graphs one by one."""
    wan = Film(setting, setting.sizes.wan, KVPlan(2, 1))
    compile_blocks(wan.denoiser.blocks, backend="inductor" if setting.device == "cuda" else "eager")
    chunk_s, launch_s = wan.time(setting.repeats)
    return {"longlive_compiled_chunk_ms": 1e3 * chunk_s, "longlive_compiled_launch_ms": 1e3 * launch_s}


def large(setting: Setting) -> Mapping[str, float]:
    """The same at the size of Wan 14B."""
    chunk_s, launch_s = Film(setting, setting.sizes.large, KVPlan(2, 1)).time(1)
    return {"wan_14b_chunk_ms": 1e3 * chunk_s, "wan_14b_launch_ms": 1e3 * launch_s}


def decode(setting: Setting) -> Mapping[str, float]:
    """Wan's video decoder: a chunk after the first one, in float32, in bf16, and in bf16 with channels last."""
    found: dict[str, float] = {}
    latents = torch.randn(1, CHUNK_LATENTS, 16, *setting.sizes.latent, device=setting.device)

    def vae() -> AutoencoderKLWan:
        return AutoencoderKLWan(base_dim=setting.sizes.vae, z_dim=16)

    for name, dtype, form in (
        ("fp32", torch.float32, torch.contiguous_format),
        ("bf16", torch.bfloat16, torch.contiguous_format),
        ("bf16_channels_last", torch.bfloat16, torch.channels_last_3d),
    ):
        network = setting.random(vae, dtype)
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=form)
        codec = WanVideoCodec(network)
        _, tails = codec.decode(latents.to(dtype), None, final=False)
        found[f"decode_{name}_ms"] = 1e3 * setting.seconds(lambda: codec.decode(latents.to(dtype), tails, final=False))  # noqa: B023 (called at once)
    return found


def text(setting: Setting) -> Mapping[str, float]:
    """A prompt through an encoder of UMT5-XXL's size, in bf16."""
    layers, width, mlp, heads = setting.sizes.text
    config = UMT5Config(
        vocab_size=1000, d_model=width, d_kv=width // heads, d_ff=mlp, num_layers=layers, num_heads=heads
    )
    encoder = setting.random(lambda: UMT5EncoderModel(config), torch.bfloat16)
    tokens = torch.ones(1, setting.sizes.text_tokens, dtype=torch.long, device=setting.device)
    return {"text_ms": 1e3 * setting.seconds(lambda: encoder(tokens, tokens))}


BLOCKS: Mapping[str, Callable[[Setting], Mapping[str, float]]] = {
    block.__name__: block
    for block in (machine, attention, equality, ranks, denoise, decode, text, compiled, film, large, upscale, load)
}
"""In the order in which they run: the first ones decide most."""


# ------------------------------------------------------------------ films


class Watched(Denoiser):
    """A denoiser whose passes are timed on the host; passes that wait for the device count."""

    def __init__(self, inner: Denoiser, device: str) -> None:
        self._inner, self._device, self.host_s = inner, device, list[float]()
        self.waits, self.strict = 0, False

    @override
    def __call__(
        self, streams: Mapping[str, Stream], text: Tensor, context: AttentionContext, run: Pass
    ) -> dict[str, Tensor]:
        started = perf_counter()
        strict = self.strict and self._device == "cuda" and run.step is not None
        if strict:
            torch.cuda.set_sync_debug_mode("error")
        try:
            return self._inner(streams, text, context, run)
        except RuntimeError as error:
            if not strict or "synchroniz" not in str(error):
                raise
            self.waits += 1
        finally:
            if strict:
                torch.cuda.set_sync_debug_mode("default")
            self.host_s.append(perf_counter() - started)
        return self._inner(streams, text, context, run)


class Film:
    """A film by a causal Wan of random weights.

    Args:
        wan: see `Sizes`.
        made_on: see `Setting.random`.
    """

    def __init__(
        self,
        setting: Setting,
        wan: tuple[int, int, int, int, int],
        plan: KVPlan,
        dtype: torch.dtype = torch.bfloat16,
        made_on: str | None = None,
    ) -> None:
        heads, head_dim, layers, mlp, prompt_width = wan

        def network() -> WanTransformer3DModel:
            sizes: dict[str, Any] = {"num_attention_heads": heads, "attention_head_dim": head_dim, "ffn_dim": mlp}
            return WanTransformer3DModel(**sizes, num_layers=layers, text_dim=prompt_width)

        height, width = setting.sizes.latent
        made = setting.random(network, dtype, made_on)
        self.denoiser = denoiser = WanDenoiser(made, text_tokens=setting.sizes.text_tokens)
        frames = CLOCK.frames(CHUNK_LATENTS * (plan.num_pages + setting.repeats))
        scenes = plan_scenes(CLOCK, [frames / CLOCK.fps], [True])
        self.chunks, self._setting = plan_chunks(CLOCK, scenes, CHUNK_LATENTS), setting
        sound = max(len(chunk.audio_latents) for chunk in self.chunks)
        sites = denoiser.sites(height, width, max(len(chunk.latents) for chunk in self.chunks), sound)
        store = KVStore(sites, plan, denoiser.rope, dtype=dtype, device=setting.device)
        shapes = {"video": (16, height, width), "audio": (0,)}
        sampling = Sampling(dict.fromkeys(shapes, LEVELS), Renoise(), ClassifierFree(1.0), KeyedNoise(0))
        self.spy = Watched(ShardedDenoiser(denoiser, ONE_RANK), setting.device)
        self._engine = CausalEngine(self.spy, store, CLOCK, sampling, shapes)
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randn(setting.sizes.text_tokens, heads * head_dim, generator=generator).to(dtype)
        self._prompts = {"guided": PromptEmbedding("", tokens)}

    def render(self, chunk: ChunkSpan) -> LatentChunk:
        """The next chunk."""
        return self._engine.denoise(chunk, self._prompts)

    def time(self, count: int) -> tuple[float, float]:
        """Median seconds of the last `count` chunks, and of the host in one of their passes."""
        *first, _ = self.chunks[: len(self.chunks) - count + 1]
        for chunk in first:
            self.render(chunk)
        self.spy.host_s.clear()
        found = []
        for chunk in self.chunks[len(first) :]:
            self._setting.wait()
            started = perf_counter()
            self.render(chunk)
            self._setting.wait()
            found.append(perf_counter() - started)
        return median(found), median(self.spy.host_s)


def _tiny_film(device: str) -> tuple[list[LatentChunk], Film]:
    """A film in float32 of weights that are the same on every device."""
    film = Film(Setting(device, TOY, 1), TOY.wan, KVPlan(1, 1), torch.float32, made_on="cpu")
    first, *rest = film.chunks
    begun = film.render(first)  # in which kernels are proved and tables are sent
    film.spy.strict = True
    return [begun, *map(film.render, rest)], film


@torch.inference_mode()
def measure(options: BenchOptions) -> Mapping[str, float]:
    """All blocks, as far as the time goes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and options.size != "smoke":
        raise CapacityError("this machine has no GPU; `longtake bench gpu --smoke` rehearses the bench on its CPU")
    settle(1, device)
    sizes = options.pick(full=PUBLISHED, quick=PUBLISHED, smoke=TOY)
    setting, started = Setting(device, sizes, options.pick(full=4, quick=2, smoke=1)), perf_counter()
    found = dict.fromkeys(BENCHES["gpu"].figures, nan)
    for name, block in BLOCKS.items():
        if perf_counter() - started > TOTAL_S:
            break
        begun = perf_counter()
        report: dict[str, object] = {"block": name}
        try:
            figures = block(setting)
        except (RuntimeError, LongtakeError, ImportError) as error:  # out of memory, or a kernel that fails
            report["error"] = str(error).partition("\n")[0]
        else:
            found |= figures
            report |= figures
        print(json.dumps(report | {"seconds": perf_counter() - begun}), file=sys.stderr, flush=True)
    return found
