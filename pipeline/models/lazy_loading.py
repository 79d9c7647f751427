"""Parts of a model that are loaded on first use: an actor that decodes never holds the denoiser, nor the other way.

What the plan of a film asks of a part (sites, rope, how far a decoder looks) is answered without its weights.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from torch import Tensor

from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.models.protocols import (
    Block,
    BlockDenoiser,
    DecoderState,
    Stream,
    StreamDecoder,
    TextEncoder,
    Tokens,
)


class LazyDenoiser:
    """A `BlockDenoiser` whose weights are loaded by its first pass.

    Args:
        shape: the same denoiser on the `meta` device, which knows its sites and its rope.
        load: makes the one that computes.
    """

    def __init__(self, shape: BlockDenoiser, load: Callable[[], BlockDenoiser]) -> None:
        self.rope, self._shape, self._load = shape.rope, shape, load

    @cached_property
    def loaded(self) -> BlockDenoiser:
        """The denoiser with its weights."""
        return self._load()

    @property
    def blocks(self) -> Iterable[Block]:
        """See `BlockDenoiser.blocks`."""
        return self.loaded.blocks

    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        """See `Denoiser.sites`."""
        return self._shape.sites(latent_height, latent_width, chunk_latents, chunk_audio)

    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        """See `BlockDenoiser.embed`."""
        return self.loaded.embed(streams, text)

    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """See `BlockDenoiser.head`."""
        return self.loaded.head(tokens, streams)


class LazyDecoder:
    """A `StreamDecoder` that is loaded by the first latents.

    Args:
        left_context, lookahead: see `StreamDecoder`.
        load: makes the one that computes.
    """

    def __init__(self, left_context: int, lookahead: int, load: Callable[[], StreamDecoder]) -> None:
        self.left_context, self.lookahead, self._load = left_context, lookahead, load

    @cached_property
    def loaded(self) -> StreamDecoder:
        """The decoder with its weights."""
        return self._load()

    def decode(self, latents: Tensor, state: DecoderState, final: bool) -> tuple[Tensor, DecoderState]:
        """See `StreamDecoder.decode`."""
        return self.loaded.decode(latents, state, final)


class LazyTextEncoder:
    """A `TextEncoder` that is loaded by the first prompt.

    Args:
        check: whether a prompt can be read, which a tokenizer knows without the encoder.
        load: makes the one that computes.
    """

    def __init__(self, check: Callable[[str], None], load: Callable[[], TextEncoder]) -> None:
        self._check, self._load = check, load

    @cached_property
    def loaded(self) -> TextEncoder:
        """The encoder with its weights."""
        return self._load()

    def check(self, prompt: str) -> None:
        """See `TextEncoder.check`."""
        self._check(prompt)

    def embed(self, prompt: str) -> Tensor:
        """See `TextEncoder.embed`."""
        return self.loaded.embed(prompt)
