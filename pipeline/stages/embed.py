"""Embed: a scene's prompt becomes the tokens that steer the denoiser."""

from functools import lru_cache

import torch

from pipeline.clock import ChunkSpan
from pipeline.models.protocols import TextEncoder
from pipeline.plan import FilmPlan
from pipeline.sampling.rollout import Prompts
from pipeline.values import PromptEmbedding


class EmbedStage:
    """Embeds the prompt of a chunk's scene for every guidance branch, once per scene; the unguided one is empty."""

    def __init__(self, text: TextEncoder, plan: FilmPlan) -> None:
        self.text, self.plan = text, plan
        self._embed = lru_cache(maxsize=2)(self._embed_now)

    def __call__(self, chunk: ChunkSpan) -> Prompts:
        """The prompt's tokens, by branch."""
        prompt = self.plan.wish.scenes[chunk.scene].prompt
        return {branch: self._embed("" if branch == "unguided" else prompt) for branch in self.plan.branches}

    @torch.inference_mode()
    def _embed_now(self, prompt: str) -> PromptEmbedding:
        return PromptEmbedding(prompt, self.text.embed(prompt))
