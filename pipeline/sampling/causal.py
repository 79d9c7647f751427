"""The causal rollout: each chunk is rendered from the clean chunks before it, which it sees through the KV store.

    for every chunk:   at a canonical point, empty the store and fill it again by clean passes
                       denoise both streams together, over the guidance branches
                       clean pass: run once more over the clean result, and commit its keys

Because the store is filled again from finished latents at canonical points, it depends on nothing older than the last
such point's window: a run that resumes there continues bit for bit.

Shapes: b batch (1), f latent frames, c channels, h w latent height and width, l audio latents.
"""

from collections.abc import Iterable
from contextlib import ExitStack

import torch

from longtake.pipeline.attention.context import Pass
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.sampling.engine import Prompts, RolloutEngine, Scope
from longtake.pipeline.values import Conditioning, Given, LatentChunk


class CausalEngine(RolloutEngine):
    """Renders chunks in order, each after a clean pass over the previous one."""

    @torch.inference_mode()
    def denoise(self, chunk: ChunkSpan, prompts: Prompts, given: Given | None = None) -> LatentChunk:
        """The clean latents of `chunk`, whose predecessors were rendered or resumed; given latents stay as they are."""
        latents = self.rehearse(chunk, prompts, given)
        self.finish(latents, prompts)
        return latents

    @torch.inference_mode()
    def rehearse(self, chunk: ChunkSpan, prompts: Prompts, given: Given | None = None) -> LatentChunk:
        """As `denoise`, but the chunk is not finished: other latents may be, or it may be rehearsed again."""
        self.start(chunk, prompts)
        values = self._from_noise(Scope(chunk, self.times_s(chunk), given.streams if given else {}), prompts)
        return LatentChunk(chunk, values["video"][0].cpu(), values["audio"][0].cpu())

    def start(self, chunk: ChunkSpan, prompts: Prompts) -> None:
        """Make the store that of the chunk's past."""
        if self.store.plan.is_canonical(chunk.scene_start, chunk.index):
            self.rebuild(chunk, prompts)

    def finish(self, latents: LatentChunk, prompts: Prompts) -> None:
        """Make latents those of their chunk, which later chunks see."""
        self.clean_pass(latents, prompts)
        self._remember(latents)

    def resume(self, finished: Iterable[LatentChunk], chunk: ChunkSpan, prompts: Prompts) -> None:
        """Restore the state of an undisturbed run before `chunk`, from finished latents alone; nothing is denoised.

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
        """Commit the keys and values of finished latents, in all branches or in none; step caches must not skip it."""
        values = {"video": latents.video.unsqueeze(0), "audio": latents.audio.unsqueeze(0)}
        values = {name: x.to(self.store.device) for name, x in values.items()}
        scope = Scope(latents.span, self.times_s(latents.span))
        streams = {name: self._inputs(scope, name, [0.0], x.dtype).stream(x, 0) for name, x in values.items()}
        texts = self._sent(prompts)
        with ExitStack() as stack:
            own = self._passes.branches(prompts)
            contexts = {
                branch: stack.enter_context(self.store.open(latents.span, branch, True, texts[branch].masks))
                for branch in own
            }
            for branch, context in contexts.items():
                seen = self.sampling.guidance.context(branch, context)
                self.denoiser(streams, texts[branch].tokens.unsqueeze(0), seen, Pass(None, branch))
            for context in contexts.values():
                context.commit()

    def dry_pass(self, latents: LatentChunk, conditioning: Conditioning) -> None:
        """One pass of the cost of the next chunk's, in all branches, over finished `latents`: to be timed."""
        self.clean_pass(latents, conditioning.prompts)

    def _remember(self, latents: LatentChunk) -> None:
        """Keep the chunks that a later rebuild may need: the sink and the window."""
        chunk = latents.span
        self._finished[chunk.index] = latents
        needed = {*self.store.plan.visible(chunk.section, chunk.index + 1)}
        self._finished = {index: kept for index, kept in self._finished.items() if index in needed}
