"""One Wan, or two that divide the noise levels between them (Wan 2.2 A14B), each loaded by its first pass.

Shapes: b batch, t text tokens, d width, e experts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from longtake.pipeline.adapters.wan.block import WanTokens
from longtake.pipeline.adapters.wan.denoiser import TIMESTEPS, WanDenoiser
from longtake.pipeline.attention.context import AttentionContext
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.rope import Ropes
from longtake.pipeline.models.lazy_loading import LazyDenoiser
from longtake.pipeline.models.protocols import Block, BlockDenoiser, Stream, Tokens


class WanExperts(BlockDenoiser):
    """Runs each pass with the expert for its noise level. If there are two, all latents of a pass must be on the same
    side of the boundary.

    Args:
        experts: that for high noise first.
        num_layers: of each.
        boundary: the lowest noise level of the first expert.
    """

    def __init__(self, experts: Sequence[LazyDenoiser[WanDenoiser]], num_layers: int, boundary: float = 0.0) -> None:
        self._experts, self._boundary = experts, boundary
        self._layers = [_Layer(self, layer) for layer in range(num_layers)]

    def expert(self, index: int) -> WanDenoiser:
        """One of the experts, loaded."""
        return self._experts[index].loaded

    @property
    @override
    def rope(self) -> Ropes:
        return self._experts[0].rope

    @property
    @override
    def blocks(self) -> Iterable[Block]:
        return self._layers

    @override
    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        return self._experts[0].sites(latent_height, latent_width, chunk_latents, chunk_audio)

    @override
    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        # `text` [b t (e d)] holds the prompt as each expert reads it, one after another.
        index = self._choose(streams["video"].host_sigma)
        own = text.chunk(len(self._experts), dim=-1)[index]
        video = _video(self.expert(index).embed(streams, own))
        return {"video": replace(video, expert=index)}

    @override
    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        return self.expert(_video(tokens).expert).head(tokens, streams)

    def _choose(self, sigma: Tensor) -> int:
        """The expert for noise levels [b f], compared as diffusers compares timesteps."""
        if len(self._experts) == 1:
            return 0
        return 0 if float((TIMESTEPS * sigma).max()) >= TIMESTEPS * self._boundary else 1


@dataclass(frozen=True)
class _Layer:
    """The same layer of every expert."""

    experts: WanExperts
    index: int

    def __call__(self, tokens: Mapping[str, Tokens], context: AttentionContext, layer: int) -> dict[str, Tokens]:
        """The layer of the expert that made the tokens."""
        return self.experts.expert(_video(tokens).expert).blocks[self.index](tokens, context, layer)


def _video(tokens: Mapping[str, Tokens]) -> WanTokens:
    video = tokens["video"]
    assert isinstance(video, WanTokens)
    return video
