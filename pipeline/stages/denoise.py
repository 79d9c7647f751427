"""Denoise: noise becomes the clean latents of one chunk, in the light of the chunks before it."""

from collections.abc import Callable

from longtake.pipeline.adapters.unipc import UniPC
from longtake.pipeline.attention.exchange import ONE_RANK, Parallel
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import JournalError
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.rollouts import Continuation
from longtake.pipeline.sampling.continuation import ContinuationEngine
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.rollout import CausalEngine, Sampling
from longtake.pipeline.sampling.solver import Euler, Renoise, Solver
from longtake.pipeline.values import Conditioning, LatentChunk

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
            plan.kv_plan,
            model.denoiser.rope,
            branches=parallel.branches(plan.branches),
            dtype=model.dtype,
            device=model.device,
            parallel=parallel,
        )
        storyboard = plan.storyboard.sampling
        sampling = Sampling(plan.sigmas, SOLVERS[storyboard.solver](), plan.guidance, KeyedNoise(plan.storyboard.seed))
        denoiser = ShardedDenoiser(model.denoiser, parallel)
        parts = (denoiser, store, plan.clock, sampling, plan.latent_shapes, parallel)
        self.rollout: CausalEngine | ContinuationEngine
        if isinstance(plan.rollout, Continuation):
            self.rollout = ContinuationEngine(plan.rollout, *parts)
        else:
            self.rollout = CausalEngine(*parts)
        self._plan, self._finished = plan, finished
        self._next: int | None = None

    def __call__(self, chunk: ChunkSpan, conditioning: Conditioning) -> LatentChunk:
        """The chunk's clean latents. Raises `JournalError` if latents that it depends on are gone."""
        self._stand_before(chunk, conditioning)
        latents = self.rollout.denoise(chunk, conditioning.prompts, conditioning.given)
        self._next = chunk.index + 1
        return latents

    def dry_pass(self, latents: LatentChunk, conditioning: Conditioning) -> None:
        """One pass as that over the chunk of finished `latents` is, in all branches: to be timed."""
        self._stand_before(latents.span, conditioning)
        self.rollout.dry_pass(latents, conditioning)
        self._next = latents.span.index + 1

    def _stand_before(self, chunk: ChunkSpan, conditioning: Conditioning) -> None:
        if chunk.index != self._next:
            history = [find(self._finished, span) for span in self._plan.history(chunk)]
            self.rollout.resume(history, chunk, conditioning.prompts)


def find(finished: FinishedLatents, chunk: ChunkSpan) -> LatentChunk:
    """Latents that must be there."""
    latents = finished(chunk)
    if latents is None:
        raise JournalError(
            f"the latents of chunk {chunk.index}, which later chunks build on, were lost or damaged while the film"
            " was rendered; the same command makes them anew, and goes on"
        )
    return latents
