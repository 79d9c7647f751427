"""Parts of a model that are loaded on first use, so that a process holds only the networks that it runs.

What the plan of a film needs of a part (sites, rope, a decoder's left context and look-ahead) is known without weights.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Generic, TypeVar, cast

from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.rope import Ropes
from longtake.pipeline.models.protocols import (
    Block,
    BlockDenoiser,
    DecoderState,
    SoundEncoder,
    Stream,
    StreamDecoder,
    Tokens,
    VideoEncoder,
)

DenoiserT = TypeVar("DenoiserT", bound=BlockDenoiser)
DecoderT = TypeVar("DecoderT", bound=StreamDecoder)

Sites = Callable[[int, int, int, int], list[SiteLayout]]
"""The attention sites for a latent size and the latents of a chunk, as `BlockDenoiser.sites` returns them."""


class LazyDenoiser(BlockDenoiser, Generic[DenoiserT]):
    """A denoiser whose weights are loaded by its first pass.

    Args:
        rope, sites: of the denoiser; see `BlockDenoiser`.
        load: makes the denoiser with its weights.
    """

    def __init__(self, rope: Ropes, sites: Sites, load: Callable[[], DenoiserT]) -> None:
        self._rope, self._sites, self._load = rope, sites, load
        self._prepare: Callable[[DenoiserT], None] = lambda _: None

    @cached_property
    def loaded(self) -> DenoiserT:
        """The denoiser with its weights."""
        denoiser = self._load()
        self._prepare(denoiser)
        return denoiser

    def when_loaded(self, prepare: Callable[[DenoiserT], None]) -> None:
        """Call `prepare` with the denoiser once it is loaded, or now if it is, in place of an earlier such function."""
        self._prepare = prepare
        if "loaded" in vars(self):
            prepare(self.loaded)

    @property
    @override
    def rope(self) -> Ropes:
        return self._rope

    @property
    @override
    def blocks(self) -> Iterable[Block]:
        return self.loaded.blocks

    @override
    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        return self._sites(latent_height, latent_width, chunk_latents, chunk_audio)

    @override
    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        return self.loaded.embed(streams, text)

    @override
    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        return self.loaded.head(tokens, streams)


class LazyDecoder(StreamDecoder, Generic[DecoderT]):
    """A codec that is loaded by the first latents that it decodes, or the first frames that it encodes.

    Args:
        left_context, lookahead: see `StreamDecoder`.
        load: makes the codec with its weights.
    """

    def __init__(self, left_context: int, lookahead: int, load: Callable[[], DecoderT]) -> None:
        self.left_context, self.lookahead, self._load = left_context, lookahead, load

    @cached_property
    def loaded(self) -> DecoderT:
        """The codec with its weights."""
        return self._load()

    @override
    def decode(self, latents: Tensor, state: DecoderState, final: bool) -> tuple[Tensor, DecoderState]:
        return self.loaded.decode(latents, state, final)

    @property
    def channels(self) -> int:
        """Channels of the sound of a `SoundEncoder`."""
        return cast(SoundEncoder, self.loaded).channels

    def encode(self, media: Tensor) -> Tensor:
        """Latents of frames or sound, as `VideoEncoder.encode` and `SoundEncoder.encode` return them."""
        return cast(VideoEncoder | SoundEncoder, self.loaded).encode(media)
