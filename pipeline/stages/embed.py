"""Embed: what a scene asks for becomes what steers the denoiser: tokens of its prompt, and latents that are given."""

from collections.abc import Callable
from functools import lru_cache

import torch

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.models.protocols import TextEncoder
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.values import Conditioning, Given, PromptEmbedding


class EmbedStage:
    """Embeds the prompt of a chunk's scene for every guidance branch, once per scene; the unguided one is empty.

    Args:
        given: what the user gives of a chunk, such as `ConditioningEncoder`; nothing where not told.
    """

    def __init__(
        self, text: TextEncoder, plan: FilmPlan, given: Callable[[ChunkSpan], Given | None] = lambda _: None
    ) -> None:
        self.text, self.plan, self.given = text, plan, given
        self._embed = lru_cache(maxsize=2)(self._embed_now)

    def __call__(self, chunk: ChunkSpan) -> Conditioning:
        """The prompt's tokens, by branch, and what is given."""
        prompt = self.plan.storyboard.scenes[chunk.scene].prompt
        prompts = {branch: self._embed("" if branch == "unguided" else prompt) for branch in self.plan.branches}
        return Conditioning(prompts, self.given(chunk))

    @torch.inference_mode()
    def _embed_now(self, prompt: str) -> PromptEmbedding:
        return PromptEmbedding(prompt, self.text.embed(prompt).cpu())
