"""What every rollout engine shares: the way of one chunk from noise to clean latents.

`causal.py` and `continuation.py` hold the two engines.

Shapes: b batch (1), f latent frames, c channels, h w latent height and width, l audio latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from longtake.pipeline.attention.context import Pass
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan, MediaClock
from longtake.pipeline.models.branches import EVERY_BRANCH, Branches
from longtake.pipeline.models.protocols import Denoiser, Stream
from longtake.pipeline.sampling.guidance import Guidance
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.schedule import Levels, restart_step
from longtake.pipeline.sampling.solver import Solver
from longtake.pipeline.values import GivenLatents, LatentChunk, PromptEmbedding

Prompts = Mapping[str, PromptEmbedding]
"""The prompt of each guidance branch; see `sampling.guidance`."""


@dataclass(frozen=True)
class Sampling:
    """How a chunk is denoised.

    Args:
        sigmas: noise levels of each stream, from 1 down to 0; each stream may have its own.
        solver: started afresh for every stream of every chunk.
        guidance: the passes of a step, and how their velocities are combined.
        noise: the source of the first latents, and of fresh noise.
        restarts: how often the first chunk of each section is noised again to `restart_step`, and denoised from there.
    """

    sigmas: Levels
    solver: Solver
    guidance: Guidance
    noise: KeyedNoise
    restarts: int = 0

    @property
    def num_steps(self) -> int:
        """Denoising steps of a chunk without restarts."""
        return len(self.sigmas["video"]) - 1

    @property
    def restart_step(self) -> int:
        """The step from which a restart denoises again."""
        return restart_step(self.sigmas)


@dataclass(frozen=True)
class Scope:
    """The latents in the passes that render one chunk.

    Args:
        span: the chunk's own latents, and in a continuation those of its overlap before them.
        times_s: the middle of each latent in seconds, by stream.
        given: latents that are not rendered, by stream, at places of `span`.
        clean: whether given latents enter a pass clean, or noised to the level of the step.
    """

    span: ChunkSpan
    times_s: Mapping[str, Sequence[float]]
    given: Mapping[str, GivenLatents] = field(default_factory=dict)
    clean: bool = True


class RolloutEngine:
    """The base of the rollout engines.

    Args:
        denoiser: predicts velocities.
        store: its KV store, with a branch for every guidance branch that is run here.
        clock: times of latents.
        sampling: steps, solver, guidance, noise.
        latent_shapes: shape of one latent by stream: (c, h, w) for video, (c,) for audio.
        passes: which guidance branches are run here.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        store: KVStore,
        clock: MediaClock,
        sampling: Sampling,
        latent_shapes: Mapping[str, Sequence[int]],
        passes: Branches = EVERY_BRANCH,
    ) -> None:
        self.denoiser, self.store, self.clock, self.sampling = denoiser, store, clock, sampling
        self.latent_shapes, self._passes = latent_shapes, passes
        self._finished: dict[int, LatentChunk] = {}

    def _from_noise(self, scope: Scope, prompts: Prompts) -> dict[str, Tensor]:
        """The clean latents of everything in `scope`, by stream, each with a batch of one.

        Restarts: Xu et al., arXiv 2306.14878. A chunk without a past is the least certain of all; denoising it again
        from its own noised result lets its latents agree.
        """
        sampling, opens = self.sampling, scope.span.index == scope.span.section
        noise = {name: self._noise(scope.span, name, draw=0) for name in self.latent_shapes}
        values = self._steps(scope, prompts, dict(noise), noise)
        for restart in range(1, sampling.restarts + 1 if opens else 1):
            first, draw = sampling.restart_step, restart * (sampling.num_steps + 1)
            noise = {name: self._noise(scope.span, name, draw) for name in values}
            sigmas = {name: levels[first] for name, levels in sampling.sigmas.items()}
            values = {name: (1 - sigmas[name]) * x + sigmas[name] * noise[name] for name, x in values.items()}
            values = self._steps(scope, prompts, values, noise, first, draw)
        return values

    def _steps(
        self,
        scope: Scope,
        prompts: Prompts,
        values: dict[str, Tensor],
        noise: Mapping[str, Tensor],
        first: int = 0,
        draw: int = 0,
    ) -> dict[str, Tensor]:
        """The clean latents of `values`, which are at the levels of step `first`.

        Args:
            noise: that of `values`, with which given latents are noised.
            draw: the number of the draw of `noise`; fresh noise is drawn after it.
        """
        sampling = self.sampling
        steps = {name: list(pairwise(levels)) for name, levels in sampling.sigmas.items()}
        solvers = {name: sampling.solver.begin(sampling.sigmas[name][first:]) for name in noise}
        for step in range(first, sampling.num_steps):
            sigmas = {name: steps[name][step][0] for name in values}
            values = {name: _held(scope, name, x, noise[name], sigmas[name]) for name, x in values.items()}
            seen = {name: sampling.solver.seen_level(sigma) for name, sigma in sigmas.items()}
            velocity = self._guided(self._streams(scope, values, seen), scope.span, prompts, step)
            for name, x in values.items():
                fresh_noise = partial(self._noise, scope.span, name, draw=draw + step + 1)
                values[name] = solvers[name].step(x, velocity[name], *steps[name][step], fresh_noise)
        return {name: _held(scope, name, x, noise[name], 0.0) for name, x in values.items()}

    def _guided(
        self, streams: Mapping[str, Stream], chunk: ChunkSpan, prompts: Prompts, step: int
    ) -> dict[str, Tensor]:
        """The velocities of one step: its passes in all branches, combined."""
        own = {}
        for branch in self._passes.branches(prompts):
            with self.store.open(chunk, branch, seen=prompts[branch].masks) as context:
                seen = self.sampling.guidance.context(branch, context)
                own[branch] = self.denoiser(streams, self._text(prompts[branch]), seen, Pass(step, branch))
        return self.sampling.guidance.combine(self._passes.all_branches(own, prompts), streams)

    def _streams(self, scope: Scope, values: Mapping[str, Tensor], sigmas: Mapping[str, float]) -> dict[str, Stream]:
        return {
            name: Stream(
                x, _levels(scope, name, x, sigmas[name]), torch.tensor(scope.times_s[name], dtype=torch.float64)
            )
            for name, x in values.items()
        }

    def _text(self, prompt: PromptEmbedding) -> Tensor:
        """Prompt tokens [1 l d] on the denoiser's device."""
        return prompt.tokens.unsqueeze(0).to(self.store.device)

    def times_s(self, span: ChunkSpan) -> dict[str, list[float]]:
        """The middle of each of the chunk's latents in seconds, by stream."""
        return {"video": self.clock.video_times(span), "audio": self.clock.audio_times(span)}

    def _noise(self, chunk: ChunkSpan, name: str, draw: int) -> Tensor:
        latents = {"video": chunk.latents, "audio": chunk.audio_latents}[name]
        noise = self.sampling.noise.draw(name, latents, self.latent_shapes[name], draw)
        return noise.unsqueeze(0).to(self.store.device, latent_dtype(self.store.dtype))


def _levels(scope: Scope, name: str, x: Tensor, sigma: float) -> Tensor:
    """The noise level of every latent frame [b f], in float32 or finer: the model tells 0.900 from 0.898."""
    levels = torch.full(x.shape[:2], sigma, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    if scope.clean and name in scope.given:
        levels[:, list(scope.given[name].places)] = 0.0
    return levels


def latent_dtype(weights: torch.dtype) -> torch.dtype:
    """The dtype of latents for weights of that dtype: float32 or finer, so that small steps are not rounded away."""
    return torch.promote_types(weights, torch.float32)


def _held(scope: Scope, name: str, x: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """`x` [b f ...] with the given latents in their places: clean, or at the level of the step from their own noise."""
    if name not in scope.given:
        return x
    places, given = list(scope.given[name].places), scope.given[name].values.to(x.device, x.dtype)
    held = x.clone()
    held[:, places] = given if scope.clean else (1 - sigma) * given + sigma * noise[:, places]
    return held
