"""Embed: a scene's prompt becomes tokens, which steer the denoiser together with the latents that are given."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.guards import guard
from longtake.pipeline.models.adapted import NetworkLoras
from longtake.pipeline.models.protocols import TextEncoder
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.values import Conditioning, Given, PromptEmbedding


class EmbedStage:
    """Embeds the prompt of a chunk's scene for each guidance branch, once per scene. The unguided branch reads the
    negative prompt of the scene.

    Args:
        text: the model's text encoder.
        plan: of the film.
        given: the latents that are given of a chunk, such as a `ConditioningEncoder`; by default none.
        loras: attached to the text encoder's networks.
    """

    def __init__(
        self,
        text: TextEncoder,
        plan: FilmPlan,
        given: Callable[[ChunkSpan], Given | None] = lambda _: None,
        loras: Sequence[NetworkLoras] = (),
    ) -> None:
        self.text, self.plan, self.given, self._loras = text, plan, given, loras
        self._embed = lru_cache(maxsize=2)(self._embed_now)

    def __call__(self, chunk: ChunkSpan) -> Conditioning:
        """The conditioning of a chunk: the prompt's tokens by branch, and the latents that are given."""
        storyboard = self.plan.storyboard
        prompt, negative = storyboard.scenes[chunk.scene].prompt, storyboard.negative_of(chunk.scene)
        scene = chunk.scene if self._loras else 0
        prompts = {
            branch: self._embed(negative if branch == "unguided" else prompt, scene) for branch in self.plan.branches
        }
        given = self.given(chunk)
        for name, stream in {} if given is None else given.streams.items():
            guard("embed", f"given {name} latents", stream.values, f"chunk {chunk.index}", stream.values.dtype)
        return Conditioning(prompts, given)

    @torch.inference_mode()
    def _embed_now(self, prompt: str, scene: int) -> PromptEmbedding:
        for each in self._loras:
            each.use(scene, level=0.0)
        tokens = self.text.embed(prompt)
        guard("embed", "tokens of the prompt", tokens, f"{prompt[:40]!r}", tokens.dtype)
        return PromptEmbedding(prompt, tokens.cpu())
