"""`longtake bench accelerate`: step plans on the built-in model, next to simply using fewer steps.

Errors are those of chunks that are rendered with a plan after the past of the reference, so that they do not add up.
Chunks without a past, which shipped plans compute whole, are left out of all rows.
Films are rated from pixels and sound, as in `bench fidelity`. The plan that is shipped was calibrated with prompts and
seeds that are not used here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from statistics import fmean, mean
from typing import Any

import torch

from longtake.jobs.bench.fidelity import MODEL, PooledMatches, sample_captions
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.film_ratings import FilmToRate, Rating, rate, rate_all
from longtake.pipeline.calibrate import KnownFilm, errors_of
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.plan import FilmPlan, plan_film
from longtake.pipeline.sampling.step_cache import EVERYTHING
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.training.world import Caption
from longtake.pipeline.values import LatentChunk
from longtake.pipeline.weights.load import load_model

STEPS = 24
"""Of the reference."""

PLANS: Mapping[str, str] = {
    "freeze": "freeze",
    "guidance_interval": "guidance-interval",
    "guidance_difference": "guidance-difference",
    "reuse": "{method: taylorseer, order: 0}",
    "taylorseer": "taylorseer",
    "taylorseer_3": "[freeze, {method: taylorseer, every: 3}]",
    "spectrum": "spectrum",
    "delta_dit": "delta-dit",
    "faster_diffusion": "faster-diffusion",
    "teacache": "{method: teacache, threshold: 0.1}",
    "easycache": "{method: easycache, threshold: 0.05}",
    "fbcache": "{method: fbcache, threshold: 0.15}",
    "dbcache": "{method: dbcache, front: 2, back: 1, threshold: 0.15, start: 4}",
    "careful": "{method: auto, budget: 0.5}",
    "stacked": "{method: auto, budget: 0.33}",
}
"""`sampling.accelerate` of each plan. The last two are those that `auto` means for the built-in model."""

PRESETS = ("careful", "stacked")
ERRORS = ("video_error", "audio_error", "psnr_db")
FEWER = (16, 12, 8)
"""Steps of the control."""


@dataclass(frozen=True)
class Work:
    """How much is rendered.

    Args:
        films, seconds: whose latents are compared.
        rated, rated_s: films that are rated, of each kind.
        long_s: the length of the film that is looked at for drift.
        workers: processes that rate films; 0 is this one.
        plans: how many of `PLANS` are measured; the last ones always are.
        fewer: steps of the control, and what is done in their place.
        steps: of the reference.
    """

    films: int
    seconds: int
    rated: int
    rated_s: int
    long_s: int
    plans: int = len(PLANS)
    workers: int = 2
    fewer: tuple[tuple[int, int], ...] = tuple((steps, steps) for steps in FEWER)
    steps: int = STEPS


FULL, QUICK, SMOKE = Work(6, 3, 24, 6, 600), Work(4, 2, 6, 4, 30), Work(1, 2, 1, 1, 1, 0, 0, ((8, 2),), 4)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """All figures."""
    work, model = options.pick(full=FULL, quick=QUICK, smoke=SMOKE), load_model(MODEL)
    torch.set_num_threads(1)
    captions = [caption for caption in sample_captions(options.seed) if caption.sounds]
    figures = _errors(model, options, work, captions)
    return {**figures, **_presets(figures), **_rated(model, options, work, captions)}


# ------------------------------------------------------------------ latents


@torch.inference_mode()
def _errors(model: EmbeddedModel, options: BenchOptions, work: Work, captions: Sequence[Caption]) -> dict[str, float]:
    """Errors, PSNR and times of all plans and controls."""
    films = []
    for number in range(work.films):
        planned = _planned(model, captions[number], work.seconds, options.seed + number, work.steps)
        film = KnownFilm(model, planned)
        for _ in film.record():
            pass
        films.append(film)
    left_out = [*PLANS][work.plans : -len(PRESETS)]
    once_s = sum(film.rehearse(EVERYTHING).cpu_s for film in films)
    found: dict[str, float] = {}
    for name, accelerate in PLANS.items():
        if name not in left_out:
            known_s = None if name in PRESETS else once_s
            found |= _figures(model, films, name, known_s, steps=work.steps, accelerate=accelerate)
    for steps, done in work.fewer:
        found |= _figures(model, films, f"fewer_{steps}", once_s, steps=done)
    left_out += [f"fewer_{steps}" for steps in FEWER if steps not in dict(work.fewer)]
    nothing = {f"{name}_{figure}": inf for name in left_out for figure in ("work", "wall", *ERRORS)}
    return {**nothing, **found}


def _planned(
    model: EmbeddedModel, caption: object, seconds: int, seed: int, steps: int, accelerate: str = "[]"
) -> FilmPlan:
    scene = f"{{prompt: {caption}, duration: {seconds}s}}"
    sampling = f"{{steps: {steps}, accelerate: {accelerate}}}"
    return plan_film(parse_storyboard(f"{{seed: {seed}, sampling: {sampling}, scenes: [{scene}]}}"), model)


def _figures(
    model: EmbeddedModel, films: Sequence[KnownFilm], name: str, known_s: float | None, **sampling: Any
) -> dict[str, float]:
    """The figures of one plan.

    Args:
        known_s: CPU time of the reference; None to measure it film by film, right after the plan.
        sampling: see `_planned`.
    """
    errors, psnr, works, own_s, fresh_s = [], [], [], 0.0, 0.0
    for film in films:
        board = film.plan.storyboard
        caption, seconds = board.scenes[0].prompt, film.plan.num_frames // int(film.plan.clock.fps)
        plan = _planned(model, caption, seconds, board.seed, **sampling)
        found = film.rehearse(plan.steps.plan, plan)
        own_s += found.cpu_s
        fresh_s += film.rehearse(EVERYTHING).cpu_s if known_s is None else 0.0
        errors.append(errors_of(found.latents, film.latents))
        psnr.append(_psnr(model, film, found.latents))
        works.append(found.work * plan.num_steps / film.plan.num_steps)
    values = {
        "work": fmean(works),
        "wall": own_s / (known_s or fresh_s),
        "video_error": fmean(error["video"] for error in errors),
        "audio_error": fmean(error["audio"] for error in errors),
        "psnr_db": fmean(psnr),
    }
    return {f"{name}_{figure}": value for figure, value in values.items()}


def _psnr(model: EmbeddedModel, film: KnownFilm, found: Sequence[LatentChunk]) -> float:
    """Of the frames of all chunks but the first to those of the reference."""

    def frames(chunks: Sequence[LatentChunk]) -> torch.Tensor:
        decode = DecodeStage(model, film.plan, lambda _: None)
        return torch.cat([decode(chunk)[0].frames for chunk in chunks]).float()

    opening = film.latents[:1]
    error = float(((frames([*opening, *found]) - frames(film.latents)) ** 2).mean())
    return 10 * log10(255**2 / error) if error else 100.0


def _presets(figures: Mapping[str, float]) -> dict[str, float]:
    """What the presets gain, and whether each is nearer to the reference than fewer steps that do more work."""

    def beats(name: str) -> bool:
        more = [steps for steps in FEWER if steps / STEPS >= figures[f"{name}_work"]]
        steps = min(more, default=max(FEWER))
        return all(
            figures[f"{name}_{stream}_error"] < figures[f"fewer_{steps}_{stream}_error"]
            for stream in ("video", "audio")
        )

    gained, saved = (1 - figures[f"stacked_{figure}"] for figure in ("wall", "work"))
    return {
        "stacked_passes": figures["stacked_work"],
        "wall_share": gained / saved if saved else inf,
        "beats_fewer_steps": float(all(map(beats, PRESETS))),
    }


# ------------------------------------------------------------------ ratings


def _rated(model: EmbeddedModel, options: BenchOptions, work: Work, captions: Sequence[Caption]) -> dict[str, float]:
    """Films with all steps, with the stacked plan and with as few steps, by what is seen and heard of them."""
    kinds = {
        "reference": f"{{steps: {work.steps}}}",
        "stacked": f"{{steps: {work.steps}, accelerate: {PLANS['stacked']}}}",
        "fewer": f"{{steps: {work.fewer[-1][1]}}}",
    }
    films = [
        FilmToRate(caption, work.rated_s, options.seed + 100 + number, sampling=sampling)
        for sampling in kinds.values()
        for number, caption in enumerate(captions[-work.rated :])
    ]
    films.append(FilmToRate(captions[0], work.long_s, options.seed + 200, sampling=kinds["stacked"]))
    *short, long = rate_all(MODEL, films, work.workers) if work.workers else [rate(model, film) for film in films]
    found: dict[str, float] = {}
    for number, name in enumerate(kinds):
        found |= _ratings(name, short[number * work.rated : (number + 1) * work.rated])
    latents, seams = long.at_latents.mean() if len(long.at_latents) else inf, long.at_chunks
    return {
        **found,
        "prompt_accuracy_lost": found["reference_prompt_accuracy"] - found["stacked_prompt_accuracy"],
        "onset_f1_lost": found["reference_onset_f1"] - found["stacked_onset_f1"],
        "long_seam_ratio": float(seams.mean() / latents) if len(seams) else 0.0,
        "long_std_drift": abs(long.contrast_drift),
        "long_saturation_drift": abs(long.saturation_drift),
    }


def _ratings(name: str, ratings: Sequence[Rating]) -> dict[str, float]:
    matches = PooledMatches(ratings)
    return {
        f"{name}_prompt_accuracy": mean(rating.accurate for rating in ratings),
        f"{name}_onset_f1": matches.f1,
        f"{name}_offset_ms": abs(matches.offset_ms),
    }
