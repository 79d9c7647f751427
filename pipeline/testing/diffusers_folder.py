"""What the tiny random models of every family have in common: random weights, a tokenizer, a folder, a short film."""

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
    """`network`, ready to run, with every parameter drawn anew: diffusers' own start leaves biases at 0, norms at 1."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return network.eval()


def tokenizer_of(words: tuple[str, ...], prompt: str, **special: str) -> Any:
    """Words to numbers.

    Args:
        words: all that it knows: what pads, what begins or ends a prompt, what stands for unknown words, and others.
        prompt: how a prompt `$A` is begun or ended, such as "$A </s>".
        special: what transformers calls the word that begins or ends.
    """
    pad, edge, unknown = words[:3]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=prompt, special_tokens=[(edge, 1)])
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, **special)


def save(pipeline: Any, folder: Path, **mark: object) -> Path:
    """A folder in diffusers' format; marked as causal where chunk_latents, window and sink are given."""
    pipeline.save_pretrained(folder)
    if mark:
        (folder / MARK).write_text(json.dumps({"rollout": "causal", **mark}))
    return folder


def only_chunk(clock: MediaClock, num_latents: int) -> ChunkSpan:
    """A film that is one chunk of a section."""
    scenes = plan_scenes(clock, [Fraction(clock.frames(num_latents)) / clock.fps], [True])
    (chunk,) = plan_chunks(clock, scenes, num_latents)
    return chunk
