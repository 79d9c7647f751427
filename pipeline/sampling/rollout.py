"""Rollouts: how chunk after chunk is taken from noise to clean. Here the causal one; `segment.py` holds the other.

The causal rollout renders each chunk in the light of the clean chunks before it, which it sees through the KV store.

    for every chunk:   at a canonical point, empty the store and fill it again by clean passes
                       denoise both streams together, over the guidance branches
                       clean pass: run once more over the clean result, and commit its keys

Because the store is filled again from finished latents at canonical points, it depends on nothing older than the last
such point's window: a run that resumes there continues bit for bit.

Shapes: b batch (1), f latent frames, c channels, h w latent height and width, l audio latents.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from longtake.pipeline.attention.exchange import ONE_RANK, Passes
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import ChunkSpan, MediaClock
from longtake.pipeline.models.protocols import Denoiser, Stream
from longtake.pipeline.sampling.guidance import Guidance
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.schedule import Levels
from longtake.pipeline.sampling.solver import Solver
from longtake.pipeline.values import Conditioning, Given, GivenLatents, LatentChunk, PromptEmbedding

Prompts = Mapping[str, PromptEmbedding]
"""The prompt of each guidance branch; see `sampling.guidance`."""


@dataclass(frozen=True)
class Sampling:
    """How a chunk is taken from noise to clean.

    Args:
        sigmas: noise levels of each stream, from 1 down to 0; streams may go at their own pace.
        solver: begun anew for every stream of every chunk.
        guidance: the passes of a step, and how their velocities become one.
        noise: where the first latents, and fresh noise, come from.
    """

    sigmas: Levels
    solver: Solver
    guidance: Guidance
    noise: KeyedNoise


@dataclass(frozen=True)
class Scope:
    """What the passes that render one chunk are over.

    Args:
        span: the latents in a pass: the chunk's own, and where it is continued from others, those before them.
        times_s: the middle of each latent in seconds, by stream.
        given: latents that are not rendered, by stream, at places of `span`.
        clean: whether given latents are shown clean, or noised to the level of the step.
    """

    span: ChunkSpan
    times_s: Mapping[str, Sequence[float]]
    given: Mapping[str, GivenLatents] = field(default_factory=dict)
    clean: bool = True


class RolloutEngine:
    """What all rollouts share: one chunk's way from noise to clean.

    Args:
        denoiser: predicts velocities.
        store: its KV store, with a branch for every prompt whose pass is run here.
        clock: times of latents.
        sampling: steps, solver, guidance, noise.
        latent_shapes: shape of one latent by stream: (c, h, w) for video, (c,) for audio.
        passes: the guidance passes that are run here; all, where not given.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        store: KVStore,
        clock: MediaClock,
        sampling: Sampling,
        latent_shapes: Mapping[str, Sequence[int]],
        passes: Passes = ONE_RANK,
    ) -> None:
        self.denoiser, self.store, self.clock, self.sampling = denoiser, store, clock, sampling
        self.latent_shapes, self._passes = latent_shapes, passes
        self._finished: dict[int, LatentChunk] = {}

    def _from_noise(self, scope: Scope, prompts: Prompts) -> dict[str, Tensor]:
        """The clean latents of all that the passes are over, by stream, each with a batch of one."""
        sampling = self.sampling
        noise = {name: self._noise(scope.span, name, draw=0) for name in self.latent_shapes}
        steps = {name: list(pairwise(levels)) for name, levels in sampling.sigmas.items()}
        solvers = {name: sampling.solver.begin(sampling.sigmas[name]) for name in noise}
        values = dict(noise)
        for step in range(len(steps["video"])):
            sigmas = {name: steps[name][step][0] for name in values}
            values = {name: _held(scope, name, x, noise[name], sigmas[name]) for name, x in values.items()}
            velocity = self._guided(self._streams(scope, values, sigmas), scope.span, prompts)
            for name, x in values.items():
                fresh_noise = partial(self._noise, scope.span, name, draw=step + 1)
                values[name] = solvers[name].step(x, velocity[name], *steps[name][step], fresh_noise)
        return {name: _held(scope, name, x, noise[name], 0.0) for name, x in values.items()}

    def _guided(self, streams: Mapping[str, Stream], chunk: ChunkSpan, prompts: Prompts) -> dict[str, Tensor]:
        own = {}
        for branch in self._passes.branches(prompts):
            with self.store.open(chunk, branch, seen=prompts[branch].masks) as context:
                seen = self.sampling.guidance.context(branch, context)
                own[branch] = self.denoiser(streams, self._text(prompts[branch]), seen)
        return self.sampling.guidance.combine(self._passes.all_branches(own, prompts), streams)

    def _streams(self, scope: Scope, values: Mapping[str, Tensor], sigmas: Mapping[str, float]) -> dict[str, Stream]:
        return {
            name: Stream(
                x, _levels(scope, name, x, sigmas[name]), torch.tensor(scope.times_s[name], dtype=torch.float64)
            )
            for name, x in values.items()
        }

    def _text(self, prompt: PromptEmbedding) -> Tensor:
        """Prompt tokens [1 l d] where the denoiser computes."""
        return prompt.tokens.unsqueeze(0).to(self.store.device)

    def times_s(self, span: ChunkSpan) -> dict[str, list[float]]:
        """The middle of each of the chunk's latents in seconds, by stream."""
        return {"video": self.clock.video_times(span), "audio": self.clock.audio_times(span)}

    def _noise(self, chunk: ChunkSpan, name: str, draw: int) -> Tensor:
        latents = {"video": chunk.latents, "audio": chunk.audio_latents}[name]
        noise = self.sampling.noise.draw(name, latents, self.latent_shapes[name], draw)
        return noise.unsqueeze(0).to(self.store.device, latent_dtype(self.store.dtype))


class CausalEngine(RolloutEngine):
    """Renders chunks in order, each after a clean pass over the one before it."""

    @torch.inference_mode()
    def denoise(self, chunk: ChunkSpan, prompts: Prompts, given: Given | None = None) -> LatentChunk:
        """The clean latents of `chunk`, whose predecessors were rendered or resumed before; those given as they are."""
        if self.store.plan.is_canonical(chunk.scene_start, chunk.index):
            self.rebuild(chunk, prompts)
        values = self._from_noise(Scope(chunk, self.times_s(chunk), given.streams if given else {}), prompts)
        latents = LatentChunk(chunk, values["video"][0].cpu(), values["audio"][0].cpu())
        self.clean_pass(latents, prompts)
        self._remember(latents)
        return latents

    def resume(self, finished: Iterable[LatentChunk], chunk: ChunkSpan, prompts: Prompts) -> None:
        """Stand where an undisturbed run stands before `chunk`, from finished latents alone; nothing is denoised.

        Args:
            finished: at least the chunks that were visible at the last canonical point, and all after it, in order.
            chunk: the next one to render.
            prompts: of that chunk's scene.
        """
        self._finished = {latents.span.index: latents for latents in finished}
        canonical = self.store.plan.last_canonical(chunk.scene_start, chunk.index)
        if canonical == chunk.index:
            return
        self.rebuild(self._finished[canonical].span, prompts)
        for index in range(canonical, chunk.index):
            self.clean_pass(self._finished[index], prompts)

    @torch.inference_mode()
    def rebuild(self, chunk: ChunkSpan, prompts: Prompts) -> None:
        """Empty the store and run the clean pass again over what `chunk` sees: the sink and the window, under the
        prompt of its own scene; nothing after a cut."""
        self.store.reset()
        for index in self.store.plan.visible(chunk.section, chunk.index):
            self.clean_pass(self._finished[index], prompts)

    @torch.inference_mode()
    def clean_pass(self, latents: LatentChunk, prompts: Prompts) -> None:
        """Commit the keys and values of finished latents, in all branches or none; no step cache may skip this."""
        values = {"video": latents.video.unsqueeze(0), "audio": latents.audio.unsqueeze(0)}
        values = {name: x.to(self.store.device) for name, x in values.items()}
        scope = Scope(latents.span, self.times_s(latents.span))
        streams = self._streams(scope, values, dict.fromkeys(values, 0.0))
        with ExitStack() as stack:
            own = self._passes.branches(prompts)
            contexts = {
                branch: stack.enter_context(self.store.open(latents.span, branch, True, prompts[branch].masks))
                for branch in own
            }
            for branch, context in contexts.items():
                seen = self.sampling.guidance.context(branch, context)
                self.denoiser(streams, self._text(prompts[branch]), seen)
            for context in contexts.values():
                context.commit()

    def dry_pass(self, latents: LatentChunk, conditioning: Conditioning) -> None:
        """One pass as the next chunk's will be, in all branches, given finished `latents`: to be timed."""
        self.clean_pass(latents, conditioning.prompts)

    def _remember(self, latents: LatentChunk) -> None:
        """Keep what a later rebuild may need: the sink and the window."""
        chunk = latents.span
        self._finished[chunk.index] = latents
        needed = {*self.store.plan.visible(chunk.section, chunk.index + 1)}
        self._finished = {index: kept for index, kept in self._finished.items() if index in needed}


def _levels(scope: Scope, name: str, x: Tensor, sigma: float) -> Tensor:
    """One noise level for every latent frame [b f], never coarser than float32: the model tells 0.900 from 0.898."""
    levels = torch.full(x.shape[:2], sigma, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    if scope.clean and name in scope.given:
        levels[:, list(scope.given[name].places)] = 0.0
    return levels


def latent_dtype(weights: torch.dtype) -> torch.dtype:
    """Of latents that weights of that dtype move: float32 or finer, so that steps do not round away."""
    return torch.promote_types(weights, torch.float32)


def _held(scope: Scope, name: str, x: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """`x` [b f ...] with the given latents in their places: clean, or at the level of the step from their own noise."""
    if name not in scope.given:
        return x
    places, given = list(scope.given[name].places), scope.given[name].values.to(x.device, x.dtype)
    held = x.clone()
    held[:, places] = given if scope.clean else (1 - sigma) * given + sigma * noise[:, places]
    return held
