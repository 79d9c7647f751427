"""LTX-2's text encoder: all hidden states of Gemma, then connectors that build a prompt for each stream.

Shapes: t text tokens, d concatenated widths of the video's and the sound's tokens.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from torch import Tensor

from longtake.pipeline.errors import SpecError


class LTX2Text:
    """Embeds prompts as diffusers' `LTX2Pipeline` does; its parts are loaded on first use.

    The connectors replace padding with learned tokens, so the denoiser needs no mask.

    Args:
        tokenizer, encoder, connectors: load Gemma's tokenizer, Gemma and the connectors.
        max_tokens: tokens of a prompt.
    """

    def __init__(
        self,
        tokenizer: Callable[[], Any],
        encoder: Callable[[], Any],
        connectors: Callable[[], LTX2TextConnectors],
        max_tokens: int = 1024,
    ) -> None:
        self._load_tokenizer, self._load_encoder, self._load_connectors = tokenizer, encoder, connectors
        self.max_tokens = max_tokens
        self.keeps_encoder = True

    def check(self, prompt: str) -> None:
        """Raise `SpecError` if the prompt would be truncated."""
        length = len(self._tokenizer(prompt.strip()).input_ids)
        if length > self.max_tokens:
            raise SpecError(
                f"the prompt {prompt[:40]!r}... has {length} tokens, LTX-2 accepts at most {self.max_tokens};"
                " shorten it, or split it into two scenes"
            )

    def embed(self, prompt: str) -> Tensor:
        """Tokens [t d] of a prompt for both streams. Raises as `check` does."""
        self.check(prompt)
        read = self._tokenizer(prompt.strip(), padding="max_length", max_length=self.max_tokens, return_tensors="pt")
        encoder = self._encoder
        mask = read.attention_mask.to(encoder.device)
        states = encoder(
            input_ids=read.input_ids.to(encoder.device), attention_mask=mask, output_hidden_states=True
        ).hidden_states
        if not self.keeps_encoder:
            del encoder
            self.release()
        stacked = torch.stack(states, dim=-1).flatten(2, 3)
        connectors = self._connectors
        video, audio, _ = connectors(stacked.to(connectors.dtype), mask, padding_side="left")
        return torch.cat((video, audio), dim=-1)[0]

    def release(self) -> None:
        """Drop Gemma; the next prompt loads it again."""
        vars(self).pop("_encoder", None)

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = self._load_tokenizer()
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def _encoder(self) -> Any:
        return self._load_encoder()

    @cached_property
    def _connectors(self) -> LTX2TextConnectors:
        return self._load_connectors()
