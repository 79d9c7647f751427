"""What `--offload layers` saves and costs: a Wan of 60 layers, with its weights in memory and with its weights in their
files."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event
from time import perf_counter
from typing import Any

import psutil
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.ranks import fork_server
from longtake.pipeline.adapters.wan.model import open_folder
from longtake.pipeline.plan import plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.testing import wan
from longtake.pipeline.testing.diffusers_folder import all_random, save
from longtake.pipeline.weights.options import LoadOptions, Offload

LAYERS, HEAD = 60, 32
SAMPLE_S = 0.002


@dataclass(frozen=True)
class Sizes:
    """Width of the denoiser, sides of the picture, steps, and films of each kind."""

    width: int
    side: int
    steps: int
    films: int


FULL, QUICK = Sizes(256, 128, 2, 4), Sizes(256, 128, 1, 2)
SMOKE = Sizes(32, 16, 1, 1)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Render the same clip both ways, each in a process of its own."""
    sizes = options.pick(full=FULL, quick=QUICK, smoke=SMOKE)
    with TemporaryDirectory() as place:
        shallow = save(_pipeline(sizes.width, layers=2), Path(place) / "shallow")
        deep = save(_pipeline(sizes.width, LAYERS), Path(place) / "deep")
        weights = sum(file.stat().st_size for file in (deep / "transformer").glob("*.safetensors"))
        runs = {}
        for offload in ("none", "layers"):
            with fork_server().Pool(1) as pool:
                runs[offload] = pool.apply(_run, (shallow, deep, offload, sizes))
    (plain_s, plain_bytes, plain), (away_s, away_bytes, away) = runs["none"], runs["layers"]
    return {
        "weights_mb": weights / 1e6,
        "held_share": away_bytes / weights,
        "held_share_without": plain_bytes / weights,
        "time_ratio": away_s / plain_s,
        "films_that_differ": float(plain != away),
    }


def _pipeline(width: int, layers: int) -> Any:
    """A tiny pipeline with a denoiser of that width and depth."""
    pipeline = wan.tiny_pipeline("2.1")
    channels = wan.LATENT_CHANNELS["2.1"]
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=width // HEAD,
        attention_head_dim=HEAD,
        in_channels=channels,
        out_channels=channels,
        text_dim=wan.TEXT_WIDTH,
        freq_dim=32,
        ffn_dim=4 * width,
        num_layers=layers,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )
    pipeline.register_modules(transformer=all_random(transformer))
    return pipeline


def _run(shallow: Path, deep: Path, offload: Offload, sizes: Sizes) -> tuple[float, int, bytes]:
    """Seconds of a clip, the most resident bytes meanwhile over those before, and the clip's bytes. A clip of few
    layers is rendered first, so that activations and libraries have their memory."""
    torch.set_num_threads(1)
    _clip(shallow, offload, sizes)()
    process, resident, done = psutil.Process(), [0], Event()
    before = process.memory_info().rss

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            resident.append(process.memory_info().rss - before)

    clip, seconds, video = _clip(deep, offload, sizes), [], torch.empty(0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sample)
        for _ in range(sizes.films):
            started = perf_counter()
            video = clip()
            seconds.append(perf_counter() - started)
        done.set()
    return median(seconds), max(resident), video.numpy().tobytes()


def _clip(folder: Path, offload: Offload, sizes: Sizes) -> Callable[[], Tensor]:
    """Denoises a clip; the model is loaded by the first call."""
    model = open_folder(folder, LoadOptions(offload=offload))
    board = (
        f"{{model: a, video: {{width: {sizes.side}, height: {sizes.side}}},"
        f" sampling: {{steps: {sizes.steps}, guidance: 1}}, scenes: [{{prompt: a red circle, duration: 17f}}]}}"
    )
    plan = plan_film(parse_storyboard(board), model)
    (chunk,) = plan.chunks
    conditioning = EmbedStage(model.text, plan)(chunk)
    return lambda: DenoiseStage(model, plan, lambda _: None)(chunk, conditioning).video
