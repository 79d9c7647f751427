"""Wan's image-to-video weights in a film: a pass continues the clean latents that it begins with.

Given latents enter a pass clean, with a noise level of 0: a scene's image, or the overlap before a chunk. These weights
know one noise level for all latents, and read given frames in further streams. So given latents are decoded, `WanImage`
makes the streams from the frames, and the latents themselves are noised to the level of the others.

Shapes: b batch (1), f latent frames, k given ones, c channels, h w height and width of a latent.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.adapters.wan.experts import WanExperts
from longtake.pipeline.adapters.wan.image import WanImage
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.memory import Latest
from longtake.pipeline.attention.rope import Ropes
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.protocols import Block, BlockDenoiser, Stream, Tokens
from longtake.pipeline.sampling.noise import KeyedNoise

NOISE = KeyedNoise(0)
"""That given latents are noised with: the same in every step, on every rank and in every film."""


class WanContinued(BlockDenoiser):
    """A denoiser for passes that begin with given latents.

    Args:
        experts: with weights that continue an image.
        image: makes the further streams; called at the first pass.
    """

    def __init__(self, experts: WanExperts, image: Callable[[], WanImage]) -> None:
        self._experts, self._image = experts, image
        self._made: Latest[dict[str, Stream]] = Latest()
        self._noise: Latest[Tensor] = Latest()

    @property
    @override
    def rope(self) -> Ropes:
        return self._experts.rope

    @property
    @override
    def blocks(self) -> Iterable[Block]:
        return self._experts.blocks

    @override
    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        return self._experts.sites(latent_height, latent_width, chunk_latents, chunk_audio)

    @override
    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        """Latents to tokens; streams that come with `condition` are used as they are.

        Raises:
            SpecError: the pass does not begin with what is given of it, or something else is given, too.
        """
        if "condition" in streams:
            return self._experts.embed(streams, text)
        video = streams["video"]
        count, num_latents, size = _num_given(video), video.latents.shape[1], video.sigma.shape
        level, host_level = video.sigma.max(), video.host_sigma.max()
        given, rest = video.latents[:, :count], video.latents[:, count:]
        known = given if video.given is None else video.given
        noise = self._noise.of(known, count, lambda: NOISE.draw("given", range(count), given.shape[2:])[None].to(given))
        noised = ((1 - level) * given + level * noise).to(given)
        x = torch.cat([noised, rest], dim=1)
        shown = replace(video, latents=x, sigma=level.expand(size), levels=host_level.expand(size), given=None)
        condition = self._made.of(known, (count, num_latents), lambda: self._condition(given[0], num_latents))
        return self._experts.embed({**streams, **condition, "video": shown}, text)

    @override
    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        return self._experts.head(tokens, streams)

    def _condition(self, given: Tensor, num_latents: int) -> dict[str, Stream]:
        """The further streams for given latents [k c h w], the same in all passes over a chunk."""
        found = self._image().after(given, num_latents)
        return {name: _clean(values) for name, values in found.items()}


def _num_given(video: Stream) -> int:
    clean: list[bool] = (video.host_sigma[0] == 0).tolist()
    count = sum(clean)
    if not count or not all(clean[:count]):
        places = [place for place, is_clean in enumerate(clean) if is_clean]
        raise SpecError(
            f"these weights of Wan continue the first latents of a pass, and of {len(clean)} those at {places} are"
            " given; give the scene an image, or use weights that render from text"
        )
    return count


def _clean(values: Tensor) -> Stream:
    zeros = values.new_zeros(len(values), dtype=torch.float64)
    return Stream(values.unsqueeze(0), zeros.unsqueeze(0), zeros)
