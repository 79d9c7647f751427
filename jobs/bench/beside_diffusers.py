"""Seconds of LTX-2 on our road beside diffusers' pipeline: one clip, and four clips' length.

Ours denoises and decodes chunk after chunk; diffusers renders clips, and for a longer film one window after another,
each with the same overlap, regenerated. The weights are tiny and random, prompts are read beforehand, and there is one
pass a step, as distilled weights have it.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from longtake.jobs.bench import Bench, BenchOptions, Figure
from longtake.pipeline.adapters.ltx2.model import CLIP_LATENTS, OVERLAP, open_folder
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.testing.ltx2 import CAPTION_WIDTH, TEXT_LAYERS, save, tiny_pipeline
from longtake.pipeline.values import Conditioning
from longtake.pipeline.weights.options import LoadOptions

WIDTH, HEIGHT, FPS, STEPS, TEXT_TOKENS = 128, 96, 24, 4, 1024
CLIP_FRAMES = 1 + 8 * (CLIP_LATENTS - 1)
LONG = 4
WISH = """
model: tiny-ltx2
video: {{width: {width}, height: {height}, fps: {fps}}}
audio: {{sample_rate: {rate}}}
sampling: {{steps: {steps}, guidance: 1, schedule: linear}}
scenes: [{{prompt: a red circle rests, duration: {frames}f}}]
"""


def ratios(folder: Path, rounds: int) -> dict[str, float]:
    """diffusers' seconds over ours, medians of rounds that take turns.

    Args:
        folder: an empty one, for the weights.
        rounds: after one that only warms up.
    """
    clips = open_folder(save(folder / "clips"), LoadOptions())
    causal = open_folder(save(folder / "causal", chunk_latents=2, window=7, sink=1), LoadOptions())
    pipeline, long = tiny_pipeline(), LONG * CLIP_FRAMES
    windows = 1 + ceil(Fraction(long - CLIP_FRAMES, CLIP_FRAMES - (1 + 8 * (OVERLAP - 1))))
    acts: dict[str, Callable[[], object]] = {
        "their clip": lambda: _theirs(pipeline),
        "our clip": _ours(clips, CLIP_FRAMES),
        "their windows": lambda: [_theirs(pipeline) for _ in range(windows)],
        "our segments": _ours(clips, long),
        "our causal film": _ours(causal, long),
    }
    seconds: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds + 1):
        for name, act in acts.items():
            started = perf_counter()
            act()
            seconds[name].append(perf_counter() - started)

    def ratio(above: str, below: str) -> float:
        return median(a / b for a, b in zip(seconds[above][1:], seconds[below][1:], strict=True))

    return {
        "vs_diffusers_clip": ratio("their clip", "our clip"),
        "vs_diffusers_long": ratio("their windows", "our segments"),
        "vs_diffusers_causal": ratio("their windows", "our causal film"),
    }


def _theirs(pipeline: Any) -> Any:
    """One clip of diffusers' pipeline, decoded."""
    read = torch.zeros(1, TEXT_TOKENS, CAPTION_WIDTH * (TEXT_LAYERS + 1))
    scales = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    return pipeline(
        prompt_embeds=read,
        prompt_attention_mask=torch.ones(1, TEXT_TOKENS, dtype=torch.int64),
        height=HEIGHT,
        width=WIDTH,
        num_frames=CLIP_FRAMES,
        frame_rate=float(FPS),
        num_inference_steps=STEPS,
        **scales,
        **{f"audio_{name}": scale for name, scale in scales.items()},
        output_type="pt",
        return_dict=False,
    )


def _ours(model: FilmModel, frames: int) -> Callable[[], object]:
    """A film of that length, denoised and decoded; its prompt is read already."""
    rate = model.limits.sample_rates[0]
    storyboard = WISH.format(width=WIDTH, height=HEIGHT, fps=FPS, rate=rate, steps=STEPS, frames=frames)
    plan = plan_film(parse_storyboard(storyboard), model)
    conditioning: Conditioning = EmbedStage(model.text, plan)(plan.chunks[0])

    def render() -> None:
        denoise, decode = DenoiseStage(model, plan, lambda _: None), DecodeStage(model, plan, lambda _: None)
        latents = [denoise(chunk, conditioning) for chunk in plan.chunks]
        for chunk in plan.chunks:
            decode(*(latents[span.index] for span in (chunk, *plan.decode_ahead(chunk))))

    return render


def measure(options: BenchOptions) -> Mapping[str, float]:
    """One thread; three rounds, or five where it is not quick."""
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="longtake-beside-") as folder:
        return ratios(Path(folder), rounds=3 if options.quick else 5)


BENCH = Bench(
    {
        "vs_diffusers_clip": Figure("seconds of diffusers' LTX-2 pipeline over ours, for one clip", at_least=1.0),
        "vs_diffusers_long": Figure("of its windows over our segments, for four clips' length", at_least=1.0),
        "vs_diffusers_causal": Figure("of its windows over our causal film of the same length"),
    },
    measure,
    once=True,
)
