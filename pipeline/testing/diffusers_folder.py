"""Shared parts of the tiny random models of all families: random weights, a tokenizer, a folder, a short film."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from longtake.pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.weights.folder import MARK

Network = TypeVar("Network", bound=nn.Module)


def all_random(network: Network) -> Network:
    """`network` in eval mode with all parameters random; diffusers itself initialises biases to 0 and norms to 1."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return network.eval()


def tokenizer_of(words: tuple[str, ...], prompt: str, **special: str) -> Any:
    """A word-level tokenizer.

    Args:
        words: the vocabulary: the padding token, the start or end token, the unknown token, then words.
        prompt: template of a prompt `$A` with its start or end token, such as "$A </s>".
        special: the start or end token under its name in transformers.
    """
    pad, edge, unknown = words[:3]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=prompt, special_tokens=[(edge, 1)])
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, **special)


def save(pipeline: Any, folder: Path, **mark: object) -> Path:
    """Save a folder in diffusers' format; `mark` (chunk_latents, window, sink) marks it as causal."""
    pipeline.save_pretrained(folder)
    if mark:
        (folder / MARK).write_text(json.dumps({"rollout": "causal", **mark}))
    return folder


def only_chunk(clock: MediaClock, num_latents: int) -> ChunkSpan:
    """A film of a single chunk."""
    scenes = plan_scenes(clock, [Fraction(clock.frames(num_latents)) / clock.fps], [True])
    (chunk,) = plan_chunks(clock, scenes, num_latents)
    return chunk
