"""Embed: a scene's prompt becomes tokens, which steer the denoiser together with the latents that are given."""

from collections.abc import Callable
from functools import lru_cache

import torch

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.models.protocols import TextEncoder
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.values import Conditioning, Given, PromptEmbedding


class EmbedStage:
    """Embeds the prompt of a chunk's scene for each guidance branch, once per scene. The unguided prompt is empty.

    Args:
        text: the model's text encoder.
        plan: of the film.
        given: the latents that are given of a chunk, such as a `ConditioningEncoder`; by default none.
    """

    def __init__(
        self, text: TextEncoder, plan: FilmPlan, given: Callable[[ChunkSpan], Given | None] = lambda _: None
    ) -> None:
        self.text, self.plan, self.given = text, plan, given
        self._embed = lru_cache(maxsize=2)(self._embed_now)

    def __call__(self, chunk: ChunkSpan) -> Conditioning:
        """The conditioning of a chunk: the prompt's tokens by branch, and the latents that are given."""
        prompt = self.plan.storyboard.scenes[chunk.scene].prompt
        prompts = {branch: self._embed("" if branch == "unguided" else prompt) for branch in self.plan.branches}
        return Conditioning(prompts, self.given(chunk))

    @torch.inference_mode()
    def _embed_now(self, prompt: str) -> PromptEmbedding:
        return PromptEmbedding(prompt, self.text.embed(prompt).cpu())
