"""One Wan, or two that divide the noise levels between them (Wan 2.2 A14B), each loaded when it is first needed.

Shapes: b batch, t text tokens, d width, e experts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import Tensor

from longtake.pipeline.adapters.wan.denoiser import TIMESTEPS, WanDenoiser, WanTokens, rope, sites
from longtake.pipeline.attention.context import AttentionContext
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.models.protocols import Stream, Tokens


@dataclass(frozen=True)
class WanSizes:
    """What a film's plan must know of a Wan before its weights are loaded.

    Args:
        config: of the transformers.
        latents_per_s: latent frames in a second of film.
        text_tokens: of a prompt.
    """

    config: Mapping[str, Any]
    latents_per_s: float
    text_tokens: int = 512


class WanExperts:
    """Answers to `protocols.BlockDenoiser` as the expert that a pass's noise level asks for; all latents of a pass
    must be on the same side of the boundary where there are two.

    Args:
        load: makes the experts, that for high noise first.
        sizes: of each.
        boundary: the lowest noise level of the first expert.
    """

    def __init__(self, load: Sequence[Callable[[], WanDenoiser]], sizes: WanSizes, boundary: float = 0.0) -> None:
        self._experts, self._sizes, self._boundary = [cache(one) for one in load], sizes, boundary
        self.rope = rope(sizes.config, sizes.latents_per_s)
        self.blocks = [_Layer(self, layer) for layer in range(sizes.config["num_layers"])]

    def expert(self, index: int) -> WanDenoiser:
        """One of them, loaded."""
        return self._experts[index]()

    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        """See `wan.sites`."""
        del chunk_audio
        return sites(self._sizes.config, (latent_height, latent_width), chunk_latents, self._sizes.text_tokens)

    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        """The tokens of the expert for this noise level; `text` [b t (e d)] holds the prompt as each expert reads it,
        one after the other."""
        index = self._choose(streams["video"].sigma)
        own = text.chunk(len(self._experts), dim=-1)[index]
        video = _video(self.expert(index).embed(streams, own))
        return {"video": replace(video, expert=index)}

    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """See `WanDenoiser.head`."""
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
