"""Films that several ranks render, compared with the film of one rank: from that rank's context, and free-running."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longtake.jobs.bench.parity_cases import relative
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.parallel.context_parallel import context_parallel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.plan import FilmPlan, plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.values import LatentChunk
from longtake.pipeline.weights.load import load_model

FILM = """
{{model: {model}, seed: {seed}, sampling: {{steps: {steps}}}, scenes: [
  {{prompt: a red circle bounces fast on a dark background, duration: {most}s}},
  {{prompt: a blue square glides on a light background, duration: {rest}s}}]}}
"""


@dataclass(frozen=True)
class FilmCase:
    """A film, how ranks share it, and its precision."""

    degrees: Degrees
    model: str
    dtype: torch.dtype
    chunks: int
    seed: int
    steps: int = 4

    def __str__(self) -> str:
        return f"{self.model}, {self.degrees}, {self.dtype}, {self.chunks} chunks"


@dataclass(frozen=True)
class Divergence:
    """The difference of each chunk from that of one rank, max |a - b| / max |b| over both streams.

    Args:
        from_one_rank: when each chunk starts from the latents that one rank rendered before it.
        free: when each chunk starts from the latents of the gang itself.
    """

    from_one_rank: tuple[float, ...]
    free: tuple[float, ...]


def diverge(case: FilmCase, ranks: Sequence[int]) -> Divergence:
    """On one rank of a gang: render the film alone, then twice with the gang."""
    model = load_model(case.model).to(case.dtype)
    plan = _plan(model, case)
    alone = _render(model, plan, ONE_RANK, [])
    parallel = context_parallel(case.degrees, ranks)
    started = _render(model, plan, parallel, alone)
    free = _render(model, plan, parallel, [])
    return Divergence(_distances(started, alone), _distances(free, alone))


def diverge_all(cases: Sequence[FilmCase], rank: int) -> dict[FilmCase, Divergence]:
    """On rank `rank`: every case that has such a rank, in order."""
    return {case: diverge(case, range(case.degrees.ranks)) for case in cases if rank < case.degrees.ranks}


def _plan(model: EmbeddedModel, case: FilmCase) -> FilmPlan:
    most = 2 * case.chunks // 3
    storyboard = FILM.format(model=case.model, seed=case.seed, steps=case.steps, most=most, rest=case.chunks - most)
    return plan_film(parse_storyboard(storyboard), model)


def _render(
    model: EmbeddedModel, plan: FilmPlan, parallel: Parallel, history: Sequence[LatentChunk]
) -> list[LatentChunk]:
    """The film's latents. With a `history`, each chunk starts from those latents instead of the rendered ones."""
    embed, rendered = EmbedStage(model.text, plan), []
    denoise = DenoiseStage(model, plan, lambda chunk: history[chunk.index], parallel)
    for chunk in plan.chunks:
        if history:
            denoise = DenoiseStage(model, plan, lambda chunk: history[chunk.index], parallel)
        rendered.append(denoise(chunk, embed(chunk)))
    return rendered


def _distances(got: Sequence[LatentChunk], expected: Sequence[LatentChunk]) -> tuple[float, ...]:
    return tuple(
        max(relative(a.video, b.video), relative(a.audio, b.audio)) for a, b in zip(got, expected, strict=True)
    )
