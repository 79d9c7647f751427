"""Seconds of LTX-2 in our pipeline and in diffusers': one clip, and a film as long as four clips.

We denoise and decode chunk after chunk. diffusers renders clips; a longer film takes one window after another, and each
window generates the overlap again. The weights are tiny and random, prompts are embedded before the clock starts, and a
step has one pass, as in distilled weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from longtake.jobs.bench.figures import BenchOptions
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

FPS, TEXT_TOKENS = 24, 1024
DECODE_BATCH = 8
"""Chunks that are decoded in one pass when the film is not watched: about as many latents as a clip has."""
CLIP_FRAMES = 1 + 8 * (CLIP_LATENTS - 1)
STORYBOARD = """
model: tiny-ltx2
video: {{width: {width}, height: {height}, fps: {fps}}}
audio: {{sample_rate: {rate}}}
sampling: {{steps: {steps}, guidance: 1, schedule: linear}}
output: {{hls: false, decode_batch: {batch}}}
scenes: [{{prompt: a red circle rests, duration: {frames}f}}]
"""


@dataclass(frozen=True)
class Work:
    """What is measured.

    Args:
        rounds: how many; every variant runs once in a round.
        warm: rounds before them that do not count.
        clips: length of the long film.
        steps: of each clip and chunk.
        width, height: of the picture.
    """

    rounds: int
    warm: int = 1
    clips: int = 4
    steps: int = 4
    width: int = 128
    height: int = 96


def ratios(folder: Path, work: Work) -> dict[str, float]:
    """diffusers' seconds over ours, medians over rounds; the weights are saved in `folder`."""
    segments = open_folder(save(folder / "clips"), LoadOptions())
    causal = open_folder(save(folder / "causal", chunk_latents=2, window=7, sink=1), LoadOptions())
    pipeline, long = tiny_pipeline(), work.clips * CLIP_FRAMES
    windows = 1 + ceil(Fraction(long - CLIP_FRAMES, CLIP_FRAMES - (1 + 8 * (OVERLAP - 1))))
    variants: dict[str, Callable[[], object]] = {
        "their clip": lambda: _theirs(pipeline, work),
        "our clip": _ours(segments, CLIP_FRAMES, work),
        "their windows": lambda: [_theirs(pipeline, work) for _ in range(windows)],
        "our segments": _ours(segments, long, work),
        "our causal film": _ours(causal, long, work),
        "our causal film in batches": _ours(causal, long, work, DECODE_BATCH),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(work.warm + work.rounds):
        for name, render in variants.items():
            started = perf_counter()
            render()
            seconds[name].append(perf_counter() - started)

    def ratio(above: str, below: str) -> float:
        return median(a / b for a, b in zip(seconds[above][work.warm :], seconds[below][work.warm :], strict=True))

    return {
        "vs_diffusers_clip": ratio("their clip", "our clip"),
        "vs_diffusers_long": ratio("their windows", "our segments"),
        "vs_diffusers_causal": ratio("their windows", "our causal film in batches"),
        "vs_diffusers_watched": ratio("their windows", "our causal film"),
    }


def _theirs(pipeline: Any, work: Work) -> Any:
    """One clip of diffusers' pipeline, decoded."""
    embedded = torch.zeros(1, TEXT_TOKENS, CAPTION_WIDTH * (TEXT_LAYERS + 1))
    scales = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    return pipeline(
        prompt_embeds=embedded,
        prompt_attention_mask=torch.ones(1, TEXT_TOKENS, dtype=torch.int64),
        height=work.height,
        width=work.width,
        num_frames=CLIP_FRAMES,
        frame_rate=float(FPS),
        num_inference_steps=work.steps,
        **scales,
        **{f"audio_{name}": scale for name, scale in scales.items()},
        output_type="pt",
        return_dict=False,
    )


def _ours(model: FilmModel, frames: int, work: Work, batch: int = 1) -> Callable[[], object]:
    """A function that denoises and decodes a film of that length, with its prompt embedded already.

    Args:
        batch: chunks that are decoded in one pass.
    """
    rate = model.limits.sample_rates[0]
    storyboard = STORYBOARD.format(
        width=work.width, height=work.height, fps=FPS, rate=rate, steps=work.steps, frames=frames, batch=batch
    )
    plan = plan_film(parse_storyboard(storyboard), model)
    conditioning: Conditioning = EmbedStage(model.text, plan)(plan.chunks[0])

    def render() -> None:
        denoise, decode = DenoiseStage(model, plan, lambda _: None), DecodeStage(model, plan, lambda _: None)
        latents = [denoise(chunk, conditioning) for chunk in plan.chunks]
        for chunk in plan.chunks:
            decode(*(latents[span.index] for span in (chunk, *plan.decode_ahead(chunk))))

    return render


def measure(options: BenchOptions) -> Mapping[str, float]:
    """On one thread."""
    torch.set_num_threads(1)
    work = options.pick(full=Work(5), quick=Work(3), smoke=Work(1, warm=0, clips=2, steps=1, width=32, height=32))
    with TemporaryDirectory(prefix="longtake-beside-") as folder:
        return ratios(Path(folder), work)
