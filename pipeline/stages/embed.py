"""Embed: a scene's prompt becomes tokens, which steer the denoiser together with the latents that are given."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.guards import guard
from longtake.pipeline.journal.prompts import PromptJournal
from longtake.pipeline.models.adapted import NetworkLoras
from longtake.pipeline.models.protocols import Releasable, TextEncoder
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.retakes import prompt_of
from longtake.pipeline.values import Conditioning, Given, PromptEmbedding


class EmbedStage:
    """Embeds the prompt of a chunk's scene for each guidance branch, once per scene. The unguided branch reads the
    negative prompt of the scene.

    If prompts are kept, those of all scenes from the first chunk on are embedded before it, and the encoder is released
    before a denoiser needs the memory. If they are kept already, the encoder is not opened.

    Args:
        text: the model's text encoder.
        plan: of the film.
        given: the latents that are given of a chunk, such as a `ConditioningEncoder`; by default none.
        loras: attached to the text encoder's networks.
        kept: where the tokens of prompts are kept; None to keep none.
    """

    def __init__(
        self,
        text: TextEncoder,
        plan: FilmPlan,
        given: Callable[[ChunkSpan], Given | None] = lambda _: None,
        loras: Sequence[NetworkLoras] = (),
        kept: PromptJournal | None = None,
    ) -> None:
        self.text, self.plan, self.given, self._loras, self._kept = text, plan, given, loras, kept
        self._embed = lru_cache(maxsize=2)(self._embedding)
        self._embedded_from = len(plan.storyboard.scenes)

    def __call__(self, chunk: ChunkSpan) -> Conditioning:
        """The conditioning of a chunk: the prompt's tokens by branch, and the latents that are given."""
        if self._kept is not None and chunk.scene < self._embedded_from:
            self._embed_ahead(chunk.scene, self._kept)
        scene = chunk.scene if self._loras else 0
        prompts = {branch: self._embed(prompt, scene) for branch, prompt in self._prompts(chunk).items()}
        given = self.given(chunk)
        for name, stream in {} if given is None else given.streams.items():
            guard("embed", f"given {name} latents", stream.values, f"chunk {chunk.index}", stream.values.dtype)
        return Conditioning(prompts, given)

    def _prompts(self, chunk: ChunkSpan) -> dict[str, str]:
        """The prompt of each guidance branch."""
        prompt, negative = prompt_of(self.plan, chunk), self.plan.storyboard.negative_of(chunk.scene)
        return {branch: negative if branch == "unguided" else prompt for branch in self.plan.branches}

    def _embed_ahead(self, first: int, kept: PromptJournal) -> None:
        """Keep the tokens of all prompts from a scene on, and release the encoder."""
        chunks = [chunk for chunk in self.plan.chunks if first <= chunk.scene < self._embedded_from]
        for scene, prompt in dict.fromkeys((c.scene, prompt) for c in chunks for prompt in self._prompts(c).values()):
            if not kept.holds(prompt, scene):
                kept.keep(prompt, scene, self._tokens(prompt, scene))
        self._embedded_from = first
        self._release()

    def _embedding(self, prompt: str, scene: int) -> PromptEmbedding:
        tokens = None if self._kept is None else self._kept.tokens(prompt, scene)
        if tokens is None:
            tokens = self._tokens(prompt, scene)
            if self._kept is not None:  # what was kept is damaged
                self._kept.keep(prompt, scene, tokens)
                self._release()
        return PromptEmbedding(prompt, tokens)

    @torch.inference_mode()
    def _tokens(self, prompt: str, scene: int) -> Tensor:
        for each in self._loras:
            each.use(scene, level=0.0)
        tokens = self.text.embed(prompt)
        guard("embed", "tokens of the prompt", tokens, f"{prompt[:40]!r}", tokens.dtype)
        return tokens.cpu()

    def _release(self) -> None:
        if isinstance(self.text, Releasable):
            self.text.release()
