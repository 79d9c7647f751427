"""One pass through a denoiser: latents to tokens, the blocks, tokens to velocities."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import AttentionContext, Pass
from longtake.pipeline.models.protocols import Block, BlockDenoiser, Stream, Tokens


def run_blocks(
    blocks: Iterable[Block], tokens: Mapping[str, Tokens], context: AttentionContext
) -> Mapping[str, Tokens]:
    """The tokens after all `blocks`: all of them, or the share of one rank."""
    for layer, block in enumerate(blocks):
        tokens = block(tokens, context, layer)
    return tokens


Total = Callable[[str, Tensor], Tensor]
"""A stream's name and a sum over this rank's tokens of it -> the sum over the tokens of all ranks, the same on each."""


class BlockRunner(Protocol):
    """Runs the blocks of a denoiser in one pass: all of them, or those that a step plan asks for."""

    def run(
        self,
        blocks: Iterable[Block],
        tokens: Mapping[str, Tokens],
        context: AttentionContext,
        this: Pass,
        total: Total,
    ) -> Mapping[str, Tokens]:
        """The tokens after all blocks, of those streams whose velocities are computed."""
        ...


class EveryBlock(BlockRunner):
    """Runs all blocks for all streams."""

    @override
    def run(
        self,
        blocks: Iterable[Block],
        tokens: Mapping[str, Tokens],
        context: AttentionContext,
        this: Pass,
        total: Total,
    ) -> Mapping[str, Tokens]:
        return run_blocks(blocks, tokens, context)


EVERY_BLOCK = EveryBlock()


def predict(
    denoiser: BlockDenoiser, streams: Mapping[str, Stream], text: Tensor, context: AttentionContext
) -> dict[str, Tensor]:
    """Velocities shaped like the latents of `streams`, for prompt tokens `text` [b l d], computed on one rank."""
    return denoiser.head(run_blocks(denoiser.blocks, denoiser.embed(streams, text), context), streams)
