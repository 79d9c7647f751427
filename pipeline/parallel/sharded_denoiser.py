"""A denoiser whose blocks run on several ranks, each with some tokens of every latent frame of the sharded streams.

Shapes: b batch, f latent frames, s tokens of each, d their width, m modulations.
"""

from collections.abc import Mapping
from dataclasses import replace

from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import AttentionContext, Pass
from longtake.pipeline.attention.exchange import Sharing
from longtake.pipeline.models.blocks import EVERY_BLOCK, BlockRunner
from longtake.pipeline.models.protocols import BlockDenoiser, Denoiser, Stream, Tokens


class ShardedDenoiser(Denoiser):
    """Computes what `denoiser` computes, the same on every rank of a gang. Its passes need a context of a store that
    the same ranks share.

    Args:
        denoiser: whose weights every rank has.
        parallel: the gang.
        runner: runs the blocks over this rank's tokens.
    """

    def __init__(self, denoiser: BlockDenoiser, parallel: Sharing, runner: BlockRunner = EVERY_BLOCK) -> None:
        self._denoiser, self._parallel, self._runner = denoiser, parallel, runner

    @override
    def __call__(
        self, streams: Mapping[str, Stream], text: Tensor, context: AttentionContext, run: Pass
    ) -> dict[str, Tensor]:
        whole = self._denoiser.embed(streams, text)
        own = {name: self._own(name, stream) for name, stream in whole.items()}
        tokens = self._runner.run(self._denoiser.blocks, own, context, run, self._parallel.total)
        out = {
            name: replace(stream, x=self._gather(name, stream.x, tokens[name].x))
            for name, stream in whole.items()
            if name in tokens
        }
        return self._denoiser.head(out, streams)

    def _own(self, name: str, tokens: Tokens) -> Tokens:
        """This rank's tokens; positions stay whole, so that every layer knows how long the stream is."""
        frame_tokens = tokens.x.shape[2]
        if frame_tokens == 1:  # Frames of one token are cut as if they were the tokens of one frame.
            tokens = replace(
                tokens,
                x=rearrange(tokens.x, "b f 1 d -> b 1 f d"),
                condition=rearrange(tokens.condition, "b f 1 d -> b 1 f d"),
                modulation=rearrange(tokens.modulation, "b f 1 m d -> b 1 f m d"),
            )
        columns = self._parallel.columns(name, tokens.x.shape[2])
        own = replace(tokens, x=tokens.x[:, :, columns])
        if frame_tokens == 1:
            own = replace(own, condition=own.condition[:, :, columns], modulation=own.modulation[:, :, columns])
        return own

    def _gather(self, name: str, whole: Tensor, own: Tensor) -> Tensor:
        _, frames, frame_tokens, _ = whole.shape
        if frame_tokens == 1:
            return rearrange(self._parallel.gather(name, own, frames), "b 1 f d -> b f 1 d")
        return self._parallel.gather(name, own, frame_tokens)
