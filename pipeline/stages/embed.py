"""Embed: a scene's prompt becomes the tokens that steer the denoiser."""

from functools import lru_cache

import torch

from pipeline.models.protocols import TextEncoder
from pipeline.sampling.rollout import Prompts
from pipeline.values import PromptEmbedding


class EmbedStage:
    """Embeds a prompt for every guidance branch; a scene's prompt is embedded once.

    Args:
        text: the model's text encoder.
        branches: "guided", and "unguided" where guidance is used; the latter reads the empty prompt.
    """

    def __init__(self, text: TextEncoder, branches: tuple[str, ...]) -> None:
        self.text, self.branches = text, branches
        self._embed = lru_cache(maxsize=2)(self._embed_now)

    def __call__(self, prompt: str) -> Prompts:
        """The prompt's tokens, by branch. Raises `SpecError` for a prompt that the model cannot read."""
        return {branch: self._embed(prompt if branch == "guided" else "") for branch in self.branches}

    @torch.inference_mode()
    def _embed_now(self, prompt: str) -> PromptEmbedding:
        return PromptEmbedding(prompt, self.text.embed(prompt))
