"""A film from a storyboard through the whole pipeline equals the clip of diffusers' pipeline: every family and mode,
with the settings that a storyboard gets when it sets nothing, from the same noise.

Shapes: f latent frames, l audio latents, c channels, h w latent height and width, n frames, H W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LTX2ImageToVideoPipeline,
    LTX2Pipeline,
    UniPCMultistepScheduler,
)
from einops import rearrange
from PIL import Image
from torch import Tensor

from longtake.jobs.bench.figures import BenchOptions
from longtake.pipeline import film
from longtake.pipeline.adapters.open import open_folder
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import FilmPlan, plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling_spec import GuidanceSpec
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.testing import ltx2, wan
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.weights.options import LoadOptions

SEED, PROMPT = 5, "a red circle"
THETA = 100.0
"""Of LTX-2's positions, which diffusers computes in float32: with 10,000 their rounding alone exceeds the limit."""

OUT = 0.1
"""Factor of the last layer, with which clips of random weights have about the variance of trained ones."""

NO_STG = "docs/decisions/2026-11-30-settings-of-published-models.md"
"""Why LTX-2 2.0 with STG differs from diffusers, which leaves it out."""

HELD = "docs/decisions/2026-11-30-the-first-latent-is-held.md"
"""Why films that start from an image differ from diffusers' clips."""


@dataclass(frozen=True)
class Case:
    """A family and mode.

    Args:
        pipeline: makes diffusers' pipeline.
        width, height, frames: of the clip.
        sampling: keys of the storyboard's sampling that are set.
        image: whether the clip starts from an image.
        decision: the page that says why the clips differ; None where they are equal.
    """

    pipeline: Callable[[], Any]
    width: int
    height: int
    frames: int
    sampling: str = ""
    image: bool = False
    decision: str | None = None


def _wan(kind: wan.Kind, scheduler: Any = None) -> Callable[[], Any]:
    def made() -> Any:
        pipeline = wan.tiny_pipeline(kind)
        pipeline.register_modules(scheduler=scheduler or unipc())
        return pipeline

    return made


def _ltx2(form: ltx2.Form, *, by_size: bool) -> Callable[[], Any]:
    def made() -> Any:
        parts = {"text_encoder": ltx2.tiny_text_encoder(), "tokenizer": ltx2.tiny_tokenizer()}
        pipeline = ltx2.tiny_pipeline(form, theta=THETA, **parts)
        # The published schedule, with the shift of 4096 tokens for every size where a film does not ask for its own.
        shifts = {"base_shift": 0.95 if by_size else 2.05, "max_shift": 2.05, "shift_terminal": 0.1}
        tokens = {"base_image_seq_len": 1024, "max_image_seq_len": 4096}
        pipeline.register_modules(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **shifts, **tokens)
        )
        return pipeline

    return made


def unipc() -> UniPCMultistepScheduler:
    """The scheduler of published Wan folders."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


EULER = FlowMatchEulerDiscreteScheduler(shift=3.0)
STG = "guidance: {video: 3, audio: 7, modality: 3, stg: 1, stg_blocks: [1], rescale: 0.7}"
"""The default of LTX-2, in a block that the tiny models have."""

CASES: Mapping[str, Case] = {
    "wan_2_1": Case(_wan("2.1"), 48, 32, 17),
    "wan_2_1_euler": Case(_wan("2.1", EULER), 48, 32, 17),
    "wan_2_1_no_guidance": Case(_wan("2.1"), 48, 32, 17, "guidance: 1"),
    "wan_2_2_a14b": Case(_wan("a14b"), 48, 32, 17),
    "wan_2_2_5b": Case(_wan("5b"), 96, 64, 17),
    "wan_2_2_5b_image": Case(_wan("i2v 5b"), 96, 64, 17, image=True),
    "wan_2_1_image": Case(_wan("i2v 2.1"), 48, 32, 17, image=True, decision=HELD),
    "wan_2_2_a14b_image": Case(_wan("i2v a14b"), 48, 32, 17, image=True, decision=HELD),
    "ltx2": Case(_ltx2("2.0", by_size=False), 64, 64, 33, STG, decision=NO_STG),
    "ltx2_no_stg": Case(_ltx2("2.0", by_size=False), 64, 64, 33, STG.replace("stg: 1", "stg: 0")),
    "ltx2_3": Case(_ltx2("2.3", by_size=False), 64, 64, 33, STG),
    "ltx2_by_size": Case(_ltx2("2.3", by_size=True), 64, 64, 121, "guidance: 1, schedule: dynamic"),
    # Without the rescale, for which diffusers counts a given latent as if it were at the level of the step.
    "ltx2_image": Case(
        _ltx2("2.0", by_size=False), 64, 64, 33, "guidance: {video: 3, audio: 7, modality: 3}", image=True
    ),
    "ltx2_3_image": Case(_ltx2("2.3", by_size=False), 64, 64, 33, STG.replace("0.7", "0"), image=True),
    "ltx2_no_guidance": Case(_ltx2("2.0", by_size=False), 64, 64, 33, "guidance: 1"),
}


def difference(case: Case, folder: Path, steps: int | None = None) -> float:
    """The largest difference between the latents of our film and of diffusers' clip, over all streams.

    Args:
        folder: where the weights are saved.
        steps: of the schedule; None for the default of the model.
    """
    pipeline = case.pipeline()
    for network in (pipeline.transformer, getattr(pipeline, "transformer_2", None)):
        for layer in ("proj_out", "audio_proj_out"):
            if network is not None and hasattr(network, layer):
                getattr(network, layer).weight.data.mul_(OUT)
    model = open_folder(save(pipeline, folder / "model"), LoadOptions(cache=folder / "cache"))
    sampling = ", ".join(filter(None, (case.sampling, f"steps: {steps}" if steps else "")))
    image = folder / "first.png"
    pixels = np.random.default_rng(3).integers(0, 256, (case.height, case.width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    first = f", image: {image}" if case.image else ""
    plan = plan_film(
        parse_storyboard(
            f"{{model: tiny, seed: {SEED}, video: {{width: {case.width}, height: {case.height}}},"
            f" sampling: {{{sampling}}}, output: {{hls: false}},"
            f" scenes: [{{prompt: {PROMPT}, duration: {case.frames}f{first}}}]}}"
        ),
        model,
    )
    take = open_take(plan, model, Store(f"memory://parity-road-{uuid4()}"), numerics(model))
    film.render(take)
    (chunk,) = plan.chunks
    ours = take.journal.latents(chunk)
    assert ours is not None, "the film was rendered"
    theirs = their_clip(pipeline, case, plan, Image.open(image) if case.image else None)
    pairs = [(ours.video, theirs[0])] + ([(ours.audio, theirs[1])] if len(theirs) > 1 else [])
    return max(float((a - b).abs().max()) for a, b in pairs)


def their_clip(pipeline: Any, case: Case, plan: FilmPlan, image: Image.Image | None) -> Sequence[Tensor]:
    """The latents of diffusers' clip: video [f c h w], and audio [l c] if the model renders sound."""
    (chunk,), noise, sampling = plan.chunks, KeyedNoise(SEED), plan.storyboard.sampling
    picture = noise.draw("video", chunk.latents, plan.latent_shapes["video"])
    asked: dict[str, Any] = {
        "prompt": PROMPT,
        "negative_prompt": plan.storyboard.negative,
        "width": case.width,
        "height": case.height,
        "num_frames": case.frames,
        "num_inference_steps": sampling.steps,
        "latents": rearrange(picture, "f c h w -> 1 c f h w"),
        "output_type": "latent",
        "return_dict": False,
    }
    if image is not None:
        asked["image"] = image
    if image is not None and isinstance(pipeline, LTX2Pipeline):
        # With latents of its own, the pipeline expects the picture's in the first place.
        pipeline = LTX2ImageToVideoPipeline(**pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        picture[0] = _first_latent(pipeline, image, case)
        asked["image_crf"] = 0
    if not plan.latent_shapes["audio"][0]:
        asked |= {"guidance_scale": sampling.guidance}
        if pipeline.config.boundary_ratio is not None:
            asked["guidance_scale_2"] = sampling.guidance_2
        return [rearrange(pipeline(**asked)[0], "1 c f h w -> f c h w")]
    sound = noise.draw("audio", chunk.audio_latents, plan.latent_shapes["audio"])
    mels = {"c": ltx2.AUDIO_CHANNELS}
    for vae in (pipeline.vae, pipeline.audio_vae):  # latents go in and come out as the transformer has them
        vae.latents_mean.zero_()
        vae.latents_std.fill_(1)
    asked |= {"audio_latents": rearrange(sound, "l (c m) -> 1 c l m", **mels), "frame_rate": 24.0}
    asked |= _scales(sampling.guidance)
    video, audio = pipeline(**asked)
    return [rearrange(video, "1 c f h w -> f c h w"), rearrange(audio, "1 c l m -> l (c m)")]


@torch.no_grad()
def _first_latent(pipeline: LTX2ImageToVideoPipeline, image: Image.Image, case: Case) -> Tensor:
    """The latent [c h w] of the first picture."""
    vae, pixels = pipeline.vae, pipeline.video_processor.preprocess(image, height=case.height, width=case.width)
    latents = vae.encode(pixels.unsqueeze(2)).latent_dist.mode()
    mean, std = (rearrange(values, "c -> c 1 1 1") for values in (vae.latents_mean, vae.latents_std))
    normal: Tensor = ((latents[0] - mean) * vae.config.scaling_factor / std)[:, 0]
    return normal


def _scales(guidance: float | GuidanceSpec) -> dict[str, Any]:
    """The arguments of diffusers' LTX-2 pipeline for a storyboard's guidance."""
    if not isinstance(guidance, GuidanceSpec):
        names = ("guidance_scale", "audio_guidance_scale")
        off = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
        return dict.fromkeys(names, guidance) | off | {f"audio_{key}": value for key, value in off.items()}
    shared = {"stg_scale": guidance.stg, "modality_scale": guidance.modality, "guidance_rescale": guidance.rescale}
    scales = {"guidance_scale": guidance.video, "audio_guidance_scale": guidance.audio}
    blocks = {"spatio_temporal_guidance_blocks": list(guidance.stg_blocks)}
    return scales | shared | {f"audio_{key}": value for key, value in shared.items()} | blocks


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Every case, on one thread; two of them in the smallest form."""
    torch.set_num_threads(1)
    steps = options.pick(full=None, quick=8, smoke=2)
    names = options.pick(full=[*CASES], quick=[*CASES], smoke=["wan_2_1", "ltx2_no_guidance"])
    found = dict.fromkeys(CASES, float("nan"))
    with TemporaryDirectory(prefix="longtake-parity-road-") as folder:
        for name in names:
            found[name] = difference(CASES[name], Path(folder) / name, steps)
    exact = [found[name] for name in names if CASES[name].decision is None]
    return {"max_abs_float32": max(exact), **found}
