"""Measure how a model's passes change from step to step, and write the step plans that follow from it.

A plan file holds plans for several budgets, what they were calibrated for, the parameters that published methods ask to
be measured, and the measurements themselves.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp, log
from statistics import fmean
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.plan import FilmPlan, plan_film
from longtake.pipeline.sampling.accelerate import Weights, made_for
from longtake.pipeline.sampling.calibration import ORDER, Changes, ForecastErrors, RecordedChunk, Rehearsal, best_table
from longtake.pipeline.sampling.step_cache import StepCache
from longtake.pipeline.sampling.step_plan import GUIDED, Extrapolate, Plan, Table
from longtake.pipeline.spec import Storyboard
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.values import Conditioning, LatentChunk

BUDGETS = (0.67, 0.5, 0.33, 0.25)
"""Shares of the work for which plans are made."""

GAIN_STEPS = 6
"""At how many steps the growth of errors is measured."""

LEAST_GAIN = 0.1
"""Late errors shrink on their own, but those of several steps in a row add up."""

FEWEST_STEPS = 4

FORMAT = "longtake step plans 1"


class KnownFilm:
    """A film that was rendered with nothing skipped, and may be rehearsed with plans: each chunk after the same past.

    Args:
        model: renders it.
        plan: of the film, without a step plan.
    """

    def __init__(self, model: FilmModel, plan: FilmPlan) -> None:
        embed = EmbedStage(model.text, plan)
        self._model, self.plan = model, plan
        self._conditioning: list[tuple[ChunkSpan, Conditioning]] = [(chunk, embed(chunk)) for chunk in plan.chunks]
        self.latents: list[LatentChunk] = []

    @staticmethod
    def opens(chunk: ChunkSpan) -> bool:
        """Whether a chunk has no past; it is computed whole."""
        return chunk.index == chunk.section

    def record(self) -> Iterator[Rehearsal]:
        """Render the film; yields what was recorded after each chunk."""
        cache = Rehearsal(self.plan.guidance)
        stage = DenoiseStage(self._model, self.plan, lambda _: None, cache=cache)
        for chunk, conditioning in self._conditioning:
            self.latents.append(stage(chunk, conditioning))
            yield cache

    def rehearse(self, steps: Plan, plan: FilmPlan | None = None) -> "Rehearsed":
        """The chunks that have a past as they are with a step plan.

        Args:
            plan: of the film with other steps; None for its own.
        """
        plan = plan or self.plan
        held = replace(plan.kv_plan, keeps_passes=True)
        cache = StepCache(steps, plan.setting)
        stage = DenoiseStage(self._model, replace(plan, kv_plan=held), lambda _: None, cache=cache)
        found, cpu_s = [], 0.0
        for (chunk, conditioning), finished in zip(self._conditioning, self.latents, strict=True):
            if self.opens(chunk):
                stage.engine.start(chunk, conditioning.prompts)
            else:
                started = process_time()
                found.append(stage.engine.rehearse(chunk, conditioning.prompts, conditioning.given))
                cpu_s += process_time() - started
            stage.engine.finish(finished, conditioning.prompts)
        return Rehearsed(found, cache.work.share, cpu_s)


@dataclass(frozen=True)
class Rehearsed:
    """The chunks of a film that have a past, rendered with a step plan.

    Args:
        work: the share of tokens and blocks that was computed.
        cpu_s: CPU time without clean passes.
    """

    latents: Sequence[LatentChunk]
    work: float
    cpu_s: float


def errors_of(found: Sequence[LatentChunk], known: Sequence[LatentChunk]) -> dict[str, float]:
    """The relative error of chunks to those `known` of the same film, by stream: the mean over them."""
    of_index = {latents.span.index: latents for latents in known}
    pairs = [(latents, of_index[latents.span.index]) for latents in found]
    return {
        name: fmean(_error(getattr(one, name), getattr(other, name)) for one, other in pairs)
        for name in ("video", "audio")
    }


def _error(found: Tensor, known: Tensor) -> float:
    size = float(known.norm())
    return float((found - known).norm()) / size if size else 0.0


def calibrate(
    model: FilmModel,
    storyboards: Sequence[Storyboard],
    budgets: Iterable[float] = BUDGETS,
    tick: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The content of a plan file, in JSON's types.

    Args:
        storyboards: whose films are rendered for it, with the same steps, schedule and guidance.
        budgets: see `BUDGETS`.
        tick: told what is being done.

    Raises:
        SpecError: the model cannot render a storyboard, or a plan was asked for in it.
    """
    plans = [plan_film(storyboard, model) for storyboard in storyboards]
    if any(plan.steps.entries for plan in plans):
        raise SpecError("sampling.accelerate is set; a calibration renders with nothing skipped, leave it out")
    setting, weights = plans[0].setting, Weights(model.name, model.fingerprint())
    if setting.num_steps < FEWEST_STEPS:
        raise SpecError(
            f"{setting.num_steps} steps are too few to skip any of them; what still pays is a guidance of 1, if the"
            " weights were distilled for it, and accelerate: freeze, if one stream is finished before another"
        )
    chunks: list[RecordedChunk] = []
    changes: list[Mapping[tuple[str, str], Changes]] = []
    films = [KnownFilm(model, plan) for plan in plans]
    for number, film in enumerate(films, 1):
        tick(f"recording film {number} of {len(films)}")
        for cache in film.record():
            if not film.opens(film.latents[-1].span):
                sizes = {name: float(getattr(film.latents[-1], name).norm()) for name in setting.tokens}
                chunks.append(RecordedChunk(cache.recorded, sizes))
                changes.append(cache.changes)
    if not chunks:
        raise SpecError(
            f"the films have one chunk each, of {model.chunk_latents} video latents; plans are for chunks that continue"
            " others, so render longer films (--duration)"
        )
    errors = ForecastErrors(chunks, setting)
    tick("measuring how errors grow")
    gains = _gains(films, errors)
    errors = errors.with_gains(gains)
    found = {f"{budget:g}": best_table(errors, setting, budget) for budget in budgets}
    tables = {budget: table for budget, table in found.items() if table is not None}
    tick("rehearsing the plans")
    mean = _mean_changes(changes)
    return {
        "format": FORMAT,
        "made_for": made_for(setting, weights),
        "plans": {budget: table.dump() for budget, table in tables.items()},
        "work": {budget: table.work(setting) for budget, table in tables.items()},
        "error": {budget: _measured(films[0], table) for budget, table in tables.items()},
        "gains": gains,
        "methods": _methods(mean, errors, setting.num_steps, setting.num_blocks),
        "probe": {f"{branch} {stream}": asdict(each) for (branch, stream), each in mean.items()},
    }


def _gains(films: Sequence[KnownFilm], errors: ForecastErrors) -> list[float]:
    """By step, how much the error of a forecast grows until the latents are finished: measured at a few steps, each of
    which is forecast alone, and interpolated."""
    setting = films[0].plan.setting
    last = setting.num_steps - 1
    steps = sorted({min(last, 2 + round((last - 2) * part / (GAIN_STEPS - 1))) for part in range(GAIN_STEPS)})
    row = dict.fromkeys(setting.tokens, Extrapolate(ORDER))
    logs = []
    for step in steps:
        alone = Table({branch: [*[{}] * step, row] for branch in setting.branches})
        found = fmean(sum(_measured(film, alone).values()) for film in films)
        expected = errors.of((max(0, step - 2), max(0, step - 1)), step)
        logs.append(log(max(LEAST_GAIN, found / expected if expected else 1.0)))
    return [exp(float(np.interp(step, steps, logs))) for step in range(setting.num_steps)]


@torch.inference_mode()
def _measured(film: KnownFilm, table: Table) -> dict[str, float]:
    return errors_of(film.rehearse(table).latents, film.latents)


def _methods(
    changes: Mapping[tuple[str, str], Changes], errors: ForecastErrors, num_steps: int, num_blocks: int
) -> dict[str, Any]:
    """The parameters that methods ask to be measured."""
    video = changes[GUIDED, "video"]
    half = (0, max(1, num_blocks // 2))
    lags = [[step[lag] if len(step) > lag else 1.0 for step in video.residuals] for lag in range(3)]
    blocks = [0.0, *(fmean(step[slice(*half)]) for step in video.blocks)]
    steps = range(num_steps)
    return {
        "smoothcache": {"errors": lags},
        "magcache": {"ratios": video.ratios},
        "mixcache": {
            "step_errors": [errors.of((step - 1,), step) if step else 0.0 for step in steps],
            "guidance_errors": [errors.of((step - 1,), step, differs=True) if step else 0.0 for step in steps],
            "block_errors": blocks,
            "blocks": list(half),
        },
    }


def _mean_changes(all_: Sequence[Mapping[tuple[str, str], Changes]]) -> dict[tuple[str, str], Changes]:
    return {key: Changes(**_mean([asdict(each[key]) for each in all_])) for key in all_[0]}


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers that lie alike in lists and mappings."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _mean([each[key] for each in values]) for key in first}
    if isinstance(first, list):
        return [_mean(list(each)) for each in zip(*values, strict=True)]
    return fmean(values)


def as_text(values: Mapping[str, Any]) -> str:
    """A plan file, with numbers of six digits."""
    return json.dumps(_rounded(values), indent=1) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: each if key == "levels" else _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
