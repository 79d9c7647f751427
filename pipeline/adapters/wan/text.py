"""Wan's text encoder: UMT5 (Chung et al., arXiv 2304.09151), then the projection of each denoiser.

Shapes: t text tokens, c their width, d the denoiser's, e experts.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from longtake.pipeline.errors import SpecError


class WanText:
    """Embeds prompts as diffusers' `WanPipeline` does; its parts are loaded on first use.

    Args:
        tokenizer, encoder, embedders: load UMT5's tokenizer and encoder, and the projection of each expert.
        max_tokens: tokens of a prompt, including the end token; shorter prompts are padded with zeros.
    """

    def __init__(
        self,
        tokenizer: Callable[[], PreTrainedTokenizerBase],
        encoder: Callable[[], UMT5EncoderModel],
        embedders: Callable[[], Sequence[nn.Module]],
        max_tokens: int = 512,
    ) -> None:
        self._load_tokenizer, self._load_encoder, self._load_embedders = tokenizer, encoder, embedders
        self.max_tokens = max_tokens
        self.keeps_encoder = True
        self._prepare: dict[int, Callable[[nn.Module], None]] = {}

    def check(self, prompt: str) -> None:
        """Raise `SpecError` if the prompt would be truncated."""
        length = len(self._tokenizer(prompt_clean(prompt)).input_ids)
        if length > self.max_tokens:
            raise SpecError(
                f"the prompt {prompt[:40]!r}... has {length} tokens, Wan accepts at most {self.max_tokens}; shorten it,"
                " or split it into two scenes"
            )

    def embed(self, prompt: str) -> Tensor:
        """Tokens [t (e d)] of a prompt, the projections of all experts concatenated. Raises as `check` does."""
        self.check(prompt)
        read = self._tokenizer(prompt_clean(prompt), return_tensors="pt", **self._padding)
        device, length = self._encoder.device, int(read.attention_mask.sum())
        encoded = self._encoder(read.input_ids.to(device), read.attention_mask.to(device)).last_hidden_state[0]
        if not self.keeps_encoder:
            self.release()
        filled = functional.pad(encoded[:length], (0, 0, 0, self.max_tokens - length))
        return torch.cat([self._project(embedder, filled) for embedder in self._embedders], dim=-1)

    def release(self) -> None:
        """Drop UMT5; the next prompt loads it again."""
        vars(self).pop("_encoder", None)

    def _project(self, embedder: nn.Module, tokens: Tensor) -> Tensor:
        weight = next(embedder.parameters())
        projected: Tensor = embedder(tokens.to(weight.device, weight.dtype))
        return projected

    @property
    def _padding(self) -> dict[str, Any]:
        return {"padding": "max_length", "max_length": self.max_tokens, "truncation": True}

    @cached_property
    def _tokenizer(self) -> Any:
        return self._load_tokenizer()

    @cached_property
    def _encoder(self) -> Any:
        return self._load_encoder()

    @cached_property
    def _embedders(self) -> Sequence[nn.Module]:
        embedders = self._load_embedders()
        for expert, prepare in self._prepare.items():
            prepare(_named(embedders[expert]))
        return embedders

    def when_loaded(self, expert: int, prepare: Callable[[nn.Module], None]) -> None:
        """Call `prepare` with the projection of an expert, under its name in the denoiser, once it is loaded, or now
        if it is, in place of an earlier such function."""
        self._prepare[expert] = prepare
        if "_embedders" in vars(self):
            prepare(_named(self._embedders[expert]))


def _named(embedder: nn.Module) -> nn.Module:
    """A projection under its name in the denoiser; always the same network for the same projection."""
    if not hasattr(embedder, "named"):
        named, inner = nn.Module(), nn.Module()
        inner.text_embedder = embedder
        named.condition_embedder = inner
        object.__setattr__(embedder, "named", named)  # not as its own child
    return cast(nn.Module, embedder.named)
