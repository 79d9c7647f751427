"""Denoise: noise becomes the clean latents of one chunk, in the light of the chunks before it."""

from collections.abc import Callable

from pipeline.adapters.unipc import UniPC
from pipeline.attention.exchange import ONE_RANK, Parallel
from pipeline.attention.kv_store import KVStore
from pipeline.clock import ChunkSpan
from pipeline.errors import JournalError
from pipeline.models.protocols import FilmModel, Segment
from pipeline.plan import FilmPlan
from pipeline.sampling.noise import KeyedNoise
from pipeline.sampling.rollout import CausalRollout, Sampling
from pipeline.sampling.segment import SegmentRollout
from pipeline.sampling.solver import Euler, Renoise, Solver
from pipeline.stages.sharded_denoiser import ShardedDenoiser
from pipeline.values import Cue, LatentChunk

SOLVERS: dict[str, type[Solver]] = {"euler": Euler, "renoise": Renoise, "unipc": UniPC}

FinishedLatents = Callable[[ChunkSpan], LatentChunk | None]
"""Where a stage finds latents that were finished before it started; None where there are none."""


class DenoiseStage:
    """Renders chunks by the rollout that the model asks for, with a KV store of its own. After a gap it first stands
    where an undisturbed run stands, from finished latents alone.

    Args:
        model: whose denoiser is used.
        plan: of the film.
        finished: where to find latents that this stage has not rendered itself.
        parallel: the ranks that render each chunk together, every one with a stage of its own; each gets the result.
    """

    def __init__(
        self, model: FilmModel, plan: FilmPlan, finished: FinishedLatents, parallel: Parallel = ONE_RANK
    ) -> None:
        store = KVStore(
            plan.sites,
            plan.context,
            model.denoiser.rope,
            branches=parallel.branches(plan.branches),
            dtype=model.dtype,
            device=model.device,
            parallel=parallel,
        )
        wish = plan.wish.sampling
        sampling = Sampling(plan.sigmas, SOLVERS[wish.solver](), plan.guidance, KeyedNoise(plan.wish.seed))
        denoiser = ShardedDenoiser(model.denoiser, parallel)
        parts = (denoiser, store, plan.clock, sampling, plan.latent_shapes, parallel)
        self.rollout: CausalRollout | SegmentRollout
        if isinstance(plan.rollout, Segment):
            self.rollout = SegmentRollout(plan.rollout, *parts)
        else:
            self.rollout = CausalRollout(*parts)
        self._plan, self._finished = plan, finished
        self._next: int | None = None

    def __call__(self, chunk: ChunkSpan, cue: Cue) -> LatentChunk:
        """The chunk's clean latents. Raises `JournalError` if latents that it depends on are gone."""
        self._stand_before(chunk, cue)
        latents = self.rollout.denoise(chunk, cue.prompts, cue.given)
        self._next = chunk.index + 1
        return latents

    def rehearse(self, latents: LatentChunk, cue: Cue) -> None:
        """One pass as that over the chunk of finished `latents` is, in all branches: to be timed."""
        self._stand_before(latents.span, cue)
        self.rollout.rehearse(latents, cue)
        self._next = latents.span.index + 1

    def _stand_before(self, chunk: ChunkSpan, cue: Cue) -> None:
        if chunk.index != self._next:
            history = [find(self._finished, span) for span in self._plan.history(chunk)]
            self.rollout.resume(history, chunk, cue.prompts)


def find(finished: FinishedLatents, chunk: ChunkSpan) -> LatentChunk:
    """Latents that must be there."""
    latents = finished(chunk)
    if latents is None:
        raise JournalError(
            f"the latents of chunk {chunk.index}, which later chunks build on, were lost or damaged while the film"
            " was rendered; the same command makes them anew, and goes on"
        )
    return latents
