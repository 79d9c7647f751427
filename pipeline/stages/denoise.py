"""Denoise: noise becomes the clean latents of one chunk, in the light of the chunks before it."""

from collections.abc import Callable

from pipeline.attention.exchange import ONE_RANK, Parallel
from pipeline.attention.kv_store import KVStore
from pipeline.clock import ChunkSpan
from pipeline.errors import JournalError
from pipeline.models.protocols import FilmModel
from pipeline.plan import FilmPlan, guidance
from pipeline.sampling.noise import KeyedNoise
from pipeline.sampling.rollout import CausalRollout, Prompts, Sampling
from pipeline.sampling.solver import Euler, Renoise, Solver
from pipeline.stages.sharded_denoiser import ShardedDenoiser
from pipeline.values import LatentChunk

SOLVERS: dict[str, type[Solver]] = {"euler": Euler, "renoise": Renoise}

FinishedLatents = Callable[[ChunkSpan], LatentChunk | None]
"""Where a stage finds latents that were finished before it started; None where there are none."""


class DenoiseStage:
    """Renders chunks by the causal rollout, with a KV store of its own. After a gap it first stands where an
    undisturbed run stands, from finished latents alone.

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
            model.plan,
            model.denoiser.rope,
            branches=parallel.branches(plan.branches),
            dtype=model.dtype,
            device=model.device,
            parallel=parallel,
        )
        wish = plan.wish.sampling
        sampling = Sampling(plan.sigmas, SOLVERS[wish.solver](), guidance(wish), KeyedNoise(plan.wish.seed))
        denoiser = ShardedDenoiser(model.denoiser, parallel)
        self.rollout = CausalRollout(denoiser, store, plan.clock, sampling, plan.latent_shapes, parallel)
        self._model, self._plan, self._finished = model, plan, finished
        self._next: int | None = None

    def __call__(self, chunk: ChunkSpan, prompts: Prompts) -> LatentChunk:
        """The chunk's clean latents. Raises `JournalError` if latents that it depends on are gone."""
        if chunk.index != self._next:
            spans = denoise_history(self._model, self._plan, chunk)
            history = [find(self._finished, span) for span in spans]
            self.rollout.resume(history, chunk, prompts)
        latents = self.rollout.denoise(chunk, prompts)
        self._next = chunk.index + 1
        return latents


def denoise_history(model: FilmModel, plan: FilmPlan, chunk: ChunkSpan) -> list[ChunkSpan]:
    """The chunks whose latents a denoiser needs to stand before `chunk`, in order."""
    return [plan.chunks[index] for index in model.plan.history(chunk.section, chunk.scene_start, chunk.index)]


def find(finished: FinishedLatents, chunk: ChunkSpan) -> LatentChunk:
    """Latents that must be there."""
    latents = finished(chunk)
    if latents is None:
        raise JournalError(
            f"the latents of chunk {chunk.index}, which later chunks build on, were lost or damaged while the film"
            " was rendered; the same command makes them anew, and goes on"
        )
    return latents
