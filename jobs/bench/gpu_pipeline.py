"""Blocks of `longtake bench gpu` beyond single networks: ranks, a whole film, upscalers, weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, cast

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from typing_extensions import override

from longtake.jobs.bench.compiled_blocks import FAMILIES, velocities
from longtake.jobs.bench.gpu_setting import Setting
from longtake.pipeline import film as pipeline
from longtake.pipeline.adapters.flashvsr.model import FlashVSR, FlashVSRSettings
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.write import GopEncoder
from longtake.pipeline.observe import Observer
from longtake.pipeline.parallel.context_parallel import Peers, joined
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.testing.thread_ranks import run_threads
from longtake.pipeline.weights.load import load_upscaler
from longtake.pipeline.weights.node_cache import sha256_of
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.tensors import fill

STORYBOARD = (
    "{{model: {name}, sampling: {{steps: 4}}, scenes: [{{prompt: a red circle bounces fast, duration: {seconds}s}}]}}"
)
THREADS = (1, 4, 8)
"""Of the encoder."""
ENCODED = 16
"""Frames that are encoded at once."""
RENDERED_AGAIN = 2
"""Chunks of the film that are dropped."""


def ranks(setting: Setting) -> Mapping[str, float]:
    """A tiny Wan on 2 x 2 ranks, which are threads, next to one rank; and an exchange of a world of one."""
    small = FAMILIES["wan"]()
    denoiser = small.build()
    cast(nn.Module, denoiser).to(setting.device)

    def run(**where: Any) -> Tensor:
        return velocities(small, denoiser, device=setting.device, **where)["video"]

    alone = run()
    found = run_threads(lambda parallel: run(parallel=parallel), Degrees(ulysses=2, ring=2))
    away = max(float((each - alone).abs().max()) for each in found)
    sent = torch.ones(setting.sizes.matrix**2, device=setting.device)
    backend = "nccl" if setting.device == "cuda" else "gloo"
    with TemporaryDirectory(prefix="longtake-gpu-") as folder, joined(0, 1, Path(folder, "ranks"), backend=backend):
        exchange_s = setting.seconds(lambda: Peers([0]).all_to_all(sent, [len(sent)], [len(sent)]))
    return {"ranks_away_from_one": away, "exchange_ms": 1e3 * exchange_s}


class Seconds(Observer):
    """Adds up the seconds of each act."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    @override
    def event(self, name: str, **fields: Any) -> None:
        if name.endswith(".chunk"):
            self.of.setdefault(name.removesuffix(".chunk"), []).append(fields["seconds"])


def film(setting: Setting) -> Mapping[str, float]:
    """A film of a built-in model by the whole pipeline, chunks of it rendered again, and the encoder by itself."""
    name, seconds = setting.sizes.film
    load = LoadOptions(device=torch.device(setting.device))
    model = open_model(name, load)
    plan = plan_film(parse_storyboard(STORYBOARD.format(name=name, seconds=seconds)), model)
    height, width = setting.sizes.picture
    ramp = (
        torch.arange(ENCODED)[:, None, None, None] + torch.arange(width)[:, None] + torch.arange(height)[:, None, None]
    )
    pictures = (ramp % 256).to(torch.uint8).expand(-1, -1, -1, 3).contiguous()
    found = {}
    for threads in THREADS:
        encoder = GopEncoder(plan.clock.fps, plan.storyboard.output.quality, threads)
        found[f"encode_{threads}_fps"] = ENCODED / setting.seconds(lambda: encoder.encode(pictures, 0, 0))  # noqa: B023
    with TemporaryDirectory(prefix="longtake-gpu-") as folder, torch.inference_mode(mode=False):
        acts = Seconds()

        def take() -> Take:
            return open_take(plan, model, Store(folder), numerics(model, load=load))

        pipeline.render(take(), acts)
        first = Path(folder, "film.mp4").read_bytes()
        for chunk in plan.chunks[-RENDERED_AGAIN:]:
            take().journal.forget(chunk.index)
        pipeline.render(take())
        again = Path(folder, "film.mp4").read_bytes()
    times = {f"film_{act}_ms": 1e3 * median(acts.of[act]) for act in ("denoise", "decode", "encode", "publish")}
    return {**found, **times, "film_resumed_differs": float(first != again)}


def upscale(setting: Setting) -> Mapping[str, float]:
    """A frame through the built-in upscaler by 2 and through FlashVSR by 4; and a linear layer in 8 bits."""
    height, width = setting.sizes.upscaled
    built_in = load_upscaler("upscaler" if setting.device == "cuda" else "tiny-upscaler").to(setting.device)
    flashvsr = setting.random(
        lambda: FlashVSR(setting.sizes.flashvsr, "v1.1", FlashVSRSettings()),
        torch.bfloat16 if setting.device == "cuda" else torch.float32,
    )

    def per_frame(upscaler: Any, scale: int, frames: int) -> float:
        state = upscaler.start(scale, height, width)
        pictures = torch.rand(frames, 3, height, width, device=setting.device)
        return setting.seconds(lambda: upscaler.push(pictures, state)) / frames

    with torch.inference_mode(mode=False), torch.no_grad():
        found = {
            "upscale_frame_ms": 1e3 * per_frame(built_in, 2, built_in.chunk_frames),
            "flashvsr_frame_ms": 1e3 * per_frame(flashvsr, 4, 4 * flashvsr.chunk_frames),
        }
        return found | _linear(setting)


def _linear(setting: Setting) -> dict[str, float]:
    """The first layer of Wan's MLP over a chunk, in bf16, with 8-bit weights, and wholly in 8 bits."""
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        quantize_,
    )

    heads, head_dim, _, mlp, _ = setting.sizes.wan
    rows = torch.randn(setting.sizes.attention[1], heads * head_dim, device=setting.device).bfloat16()
    configs: dict[str, Callable[[], Any] | None] = {"bf16": None, "fp8_weights": Float8WeightOnlyConfig}
    if setting.device == "cuda":
        configs["fp8"] = Float8DynamicActivationFloat8WeightConfig
    found = {}
    for name, config in configs.items():
        layer = nn.Sequential(nn.Linear(heads * head_dim, mlp)).to(setting.device, torch.bfloat16)
        if config is not None:
            quantize_(layer, config())
        found[f"linear_{name}_ms"] = 1e3 * setting.seconds(lambda: layer(rows))  # noqa: B023
    return found


def load(setting: Setting) -> Mapping[str, float]:
    """The weights of Wan 1.3B: hashed, and brought to the device."""
    heads, head_dim, layers, mlp, prompt_width = setting.sizes.wan
    sizes: dict[str, Any] = {"num_attention_heads": heads, "attention_head_dim": head_dim, "ffn_dim": mlp}

    def network() -> WanTransformer3DModel:
        return WanTransformer3DModel(**sizes, num_layers=layers, text_dim=prompt_width)

    with TemporaryDirectory(prefix="longtake-gpu-") as folder:
        setting.random(network, torch.bfloat16, "cpu").save_pretrained(folder, max_shard_size="100GB")
        file = next(Path(folder).glob("*.safetensors"))
        started = perf_counter()
        sha256_of(file, Path(folder, "cache"))
        hashed_s = perf_counter() - started

        def read() -> None:
            with torch.device("meta"):
                empty = network()
            fill(empty, Path(folder), LoadOptions(device=torch.device(setting.device)))

        gigabytes = file.stat().st_size / 1e9
        return {"sha256_gb_s": gigabytes / hashed_s, "load_gb_s": gigabytes / setting.seconds(read)}
