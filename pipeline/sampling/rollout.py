"""The causal rollout: chunk after chunk, each from noise, seeing the clean chunks before it through the KV store.

    for every chunk:   at a canonical point, empty the store and fill it again by clean passes
                       denoise both streams together, over the guidance branches
                       clean pass: run once more over the clean result, and commit its keys

Because the store is filled again from finished latents at canonical points, it depends on nothing older than the last
such point's window: a run that resumes there continues bit for bit.

Shapes: b batch (1), f latent frames, c channels, h w latent height and width, l audio latents.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.attention.exchange import ONE_RANK, Passes
from pipeline.attention.kv_store import KVStore
from pipeline.clock import ChunkSpan, MediaClock
from pipeline.models.protocols import Denoiser, Stream
from pipeline.sampling.guidance import Guidance
from pipeline.sampling.noise import KeyedNoise
from pipeline.sampling.schedule import Levels
from pipeline.sampling.solver import Solver
from pipeline.values import LatentChunk, PromptEmbedding

Prompts = Mapping[str, PromptEmbedding]
"""The prompt of each guidance branch; see `sampling.guidance`."""


@dataclass(frozen=True)
class Sampling:
    """How a chunk is taken from noise to clean.

    Args:
        sigmas: noise levels of each stream, from 1 down to 0; streams may go at their own pace.
        solver: one step.
        guidance: the passes of a step, and how their velocities become one.
        noise: where the first latents, and fresh noise, come from.
    """

    sigmas: Levels
    solver: Solver
    guidance: Guidance
    noise: KeyedNoise


class CausalRollout:
    """Renders chunks in order.

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

    @torch.inference_mode()
    def denoise(self, chunk: ChunkSpan, prompts: Prompts) -> LatentChunk:
        """The clean latents of `chunk`, whose predecessors were rendered or resumed before."""
        if self.store.plan.is_canonical(chunk.scene_start, chunk.index):
            self.rebuild(chunk, prompts)
        latents = self._from_noise(chunk, prompts)
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
        streams = self._streams(latents.span, values, dict.fromkeys(values, 0.0))
        with ExitStack() as stack:
            own = self._passes.branches(prompts)
            contexts = {
                branch: stack.enter_context(self.store.open(latents.span, branch, True, prompts[branch].masks))
                for branch in own
            }
            for branch, context in contexts.items():
                seen = self.sampling.guidance.context(branch, context)
                self.denoiser(streams, prompts[branch].tokens.unsqueeze(0), seen)
            for context in contexts.values():
                context.commit()

    def _from_noise(self, chunk: ChunkSpan, prompts: Prompts) -> LatentChunk:
        sampling = self.sampling
        values = {name: self._noise(chunk, name, draw=0) for name in self.latent_shapes}
        steps = {name: list(pairwise(levels)) for name, levels in sampling.sigmas.items()}
        for step in range(len(steps["video"])):
            sigmas = {name: steps[name][step][0] for name in values}
            velocity = self._guided(self._streams(chunk, values, sigmas), chunk, prompts)
            for name, x in values.items():
                fresh_noise = partial(self._noise, chunk, name, draw=step + 1)
                values[name] = sampling.solver.step(x, velocity[name], *steps[name][step], fresh_noise)
        return LatentChunk(chunk, values["video"][0], values["audio"][0])

    def _guided(self, streams: Mapping[str, Stream], chunk: ChunkSpan, prompts: Prompts) -> dict[str, Tensor]:
        own = {}
        for branch in self._passes.branches(prompts):
            with self.store.open(chunk, branch, seen=prompts[branch].masks) as context:
                seen = self.sampling.guidance.context(branch, context)
                own[branch] = self.denoiser(streams, prompts[branch].tokens.unsqueeze(0), seen)
        return self.sampling.guidance.combine(self._passes.all_branches(own, prompts), streams)

    def _streams(
        self, chunk: ChunkSpan, values: Mapping[str, Tensor], sigmas: Mapping[str, float]
    ) -> dict[str, Stream]:
        times_s = {"video": self.clock.video_times(chunk), "audio": self.clock.audio_times(chunk)}
        return {
            name: Stream(x, _levels(x, sigmas[name]), torch.tensor(times_s[name], dtype=torch.float64))
            for name, x in values.items()
        }

    def _noise(self, chunk: ChunkSpan, name: str, draw: int) -> Tensor:
        latents = {"video": chunk.latents, "audio": chunk.audio_latents}[name]
        noise = self.sampling.noise.draw(name, latents, self.latent_shapes[name], draw)
        return noise.unsqueeze(0).to(self.store.device, self.store.dtype)

    def _remember(self, latents: LatentChunk) -> None:
        """Keep what a later rebuild may need: the sink and the window."""
        chunk = latents.span
        self._finished[chunk.index] = latents
        needed = {*self.store.plan.visible(chunk.section, chunk.index + 1)}
        self._finished = {index: kept for index, kept in self._finished.items() if index in needed}


def _levels(x: Tensor, sigma: float) -> Tensor:
    """One noise level for every latent frame [b f], never coarser than float32: the model tells 0.900 from 0.898."""
    return torch.full(x.shape[:2], sigma, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
