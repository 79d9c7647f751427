"""Denoise: noise becomes the clean latents of one chunk, in the light of the chunks before it."""

from pipeline.attention.kv_store import KVStore
from pipeline.clock import ChunkSpan
from pipeline.models.film_model import FilmModel
from pipeline.plan import FilmPlan
from pipeline.sampling.noise import KeyedNoise
from pipeline.sampling.rollout import CausalRollout, Prompts, Sampling
from pipeline.sampling.solver import Euler, Renoise, Solver
from pipeline.values import LatentChunk

SOLVERS: dict[str, type[Solver]] = {"euler": Euler, "renoise": Renoise}


class DenoiseStage:
    """Renders chunks in order, by the causal rollout, with a KV store of its own."""

    def __init__(self, model: FilmModel, plan: FilmPlan) -> None:
        weights = next(model.denoiser.parameters())
        self.kv = KVStore(
            plan.sites,
            model.plan,
            model.denoiser.rope,
            branches=plan.branches,
            dtype=weights.dtype,
            device=weights.device,
        )
        wish = plan.wish.sampling
        sampling = Sampling(plan.sigmas, SOLVERS[wish.solver](), wish.guidance, KeyedNoise(plan.wish.seed))
        self.rollout = CausalRollout(model.denoiser, self.kv, plan.clock, sampling, plan.latent_shapes)

    def __call__(self, chunk: ChunkSpan, prompts: Prompts) -> LatentChunk:
        """The chunk's clean latents."""
        return self.rollout.denoise(chunk, prompts)
