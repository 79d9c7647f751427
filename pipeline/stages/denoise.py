"""Denoise: noise becomes the clean latents of one chunk, which continue those of the chunks before it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import JournalError
from longtake.pipeline.guards import guard
from longtake.pipeline.models.adapted import LoraDenoiser, NetworkLoras
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.retakes import seed_of
from longtake.pipeline.rollouts import Causal, Continuation
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.continuation import ContinuationEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.solver import solver_named
from longtake.pipeline.sampling.step_cache import StepCache
from longtake.pipeline.values import Conditioning, LatentChunk

FinishedLatents = Callable[[ChunkSpan], LatentChunk | None]
"""Returns the latents of a chunk that was finished before the stage started; None if they are missing."""


class DenoiseStage:
    """Renders chunks with the model's rollout and its own KV store. After a gap it first restores the state of an
    undisturbed run, from finished latents alone.

    Args:
        model: its denoiser renders.
        plan: of the film.
        finished: where to find latents that this stage has not rendered itself.
        parallel: the ranks that render each chunk together. Each rank has its own stage and gets the result.
        loras: attached to the model's networks.
        keeping: keeps latents while its block runs, in which later chunks are shown them, and until it ends; by default
            they are not kept.
        cache: executes something else than the plan's step plan.
    """

    def __init__(
        self,
        model: FilmModel,
        plan: FilmPlan,
        finished: FinishedLatents,
        parallel: Parallel = ONE_RANK,
        loras: Sequence[NetworkLoras] = (),
        keeping: Callable[[LatentChunk], AbstractContextManager[object]] = nullcontext,
        cache: StepCache | None = None,
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
        cache = cache or StepCache(plan.steps.plan, plan.setting)
        sampling = Sampling(
            plan.sigmas,
            solver_named(storyboard.solver),
            plan.guidance,
            KeyedNoise(plan.storyboard.seed),
            storyboard.restarts,
            cache,
        )
        self._loras = LoraDenoiser(model.denoiser, loras) if loras else None
        denoiser = ShardedDenoiser(self._loras or model.denoiser, parallel, cache)
        self.engine = _engine(plan, denoiser, store, sampling, parallel)
        self._plan, self._finished, self._dtype = plan, finished, model.dtype
        self._keeping = keeping
        self._next: int | None = None

    def __call__(self, chunk: ChunkSpan, conditioning: Conditioning) -> LatentChunk:
        """The chunk's clean latents. Raises `JournalError` if latents that it depends on are missing."""
        self._stand_before(chunk, conditioning)
        self.engine.sampling = replace(self.engine.sampling, noise=KeyedNoise(seed_of(self._plan, chunk)))
        latents = self.engine.rehearse(chunk, conditioning.prompts, conditioning.given)
        for name, values in (("video", latents.video), ("audio", latents.audio)):
            guard("denoise", f"{name} latents", values, f"chunk {chunk.index}", self._dtype)
        with self._keeping(latents):
            self.engine.finish(latents, conditioning.prompts)
        self._next = chunk.index + 1
        return latents

    def dry_pass(self, latents: LatentChunk, conditioning: Conditioning) -> None:
        """One pass over the chunk of finished `latents`, in all guidance branches, to be timed."""
        self._stand_before(latents.span, conditioning)
        self.engine.dry_pass(latents, conditioning)
        self._next = latents.span.index + 1

    def _stand_before(self, chunk: ChunkSpan, conditioning: Conditioning) -> None:
        if self._loras is not None:
            self._loras.scene = chunk.scene
        if chunk.index != self._next:
            history = [find(self._finished, span) for span in self._plan.history(chunk)]
            self.engine.resume(history, chunk, conditioning.prompts)


def _engine(
    plan: FilmPlan, denoiser: ShardedDenoiser, store: KVStore, sampling: Sampling, parallel: Parallel
) -> CausalEngine | ContinuationEngine:
    """The engine that runs the plan's rollout: a new rollout needs a line here."""
    clock, shapes = plan.clock, plan.latent_shapes
    match plan.rollout:
        case Continuation() as rollout:
            return ContinuationEngine(rollout, denoiser, store, clock, sampling, shapes, parallel)
        case Causal():
            return CausalEngine(denoiser, store, clock, sampling, shapes, parallel)
        case rollout:
            raise NotImplementedError(f"no engine runs {rollout}")


def find(finished: FinishedLatents, chunk: ChunkSpan) -> LatentChunk:
    """The latents of a chunk. Raises `JournalError` if they are missing."""
    latents = finished(chunk)
    if latents is None:
        raise JournalError(
            f"the latents of chunk {chunk.index}, which later chunks depend on, were lost or damaged while the film"
            " was rendered; run the same command again: it renders them again and resumes"
        )
    return latents
