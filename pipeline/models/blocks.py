"""One pass through a denoiser: latents to tokens, the blocks, tokens to velocities."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from longtake.pipeline.attention.context import AttentionContext
from longtake.pipeline.models.protocols import Block, BlockDenoiser, Stream, Tokens


def run_blocks(
    blocks: Iterable[Block], tokens: Mapping[str, Tokens], context: AttentionContext
) -> Mapping[str, Tokens]:
    """The tokens after all `blocks`: all of them, or the share of one rank."""
    for layer, block in enumerate(blocks):
        tokens = block(tokens, context, layer)
    return tokens


def predict(
    denoiser: BlockDenoiser, streams: Mapping[str, Stream], text: Tensor, context: AttentionContext
) -> dict[str, Tensor]:
    """Velocities shaped like the latents of `streams`, for prompt tokens `text` [b l d], computed on one rank."""
    return denoiser.head(run_blocks(denoiser.blocks, denoiser.embed(streams, text), context), streams)
