"""What the pipeline needs of a model: a denoiser over named streams, codecs that decode in chunks, a text encoder.

Shapes: b batch, f latent frames, s tokens of each, c channels, h height, w width, l audio latents or text tokens,
d width, a axes of position, n samples.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from longtake.pipeline.attention.context import AttentionContext, Pass
from longtake.pipeline.attention.kv_plan import KVPlan, SiteLayout
from longtake.pipeline.attention.rope import Ropes
from longtake.pipeline.clock import MediaClock
from longtake.pipeline.models.limits import ModelDefaults, ModelLimits
from longtake.pipeline.rollouts import Rollout

DecoderState = Any
"""A decoder's state between chunks; `None` at a section's start. Only the decoder itself reads it."""


@dataclass(frozen=True)
class Stream:
    """One modality in one pass.

    Args:
        latents: [b f c h w] for video, [b l c] for audio.
        sigma: noise level of each latent frame, float32 or finer [b f]; 0 is clean, 1 is noise.
        times_s: the middle of each latent frame in seconds, float64 [f]; the same tensor in all passes over a chunk.
        levels: `sigma` on the host, from a caller that knows it, so that no pass waits for the device.
        given: the given latents [k ...], if there are some: the same tensor in all passes over a chunk.
    """

    latents: Tensor
    sigma: Tensor
    times_s: Tensor
    levels: Tensor | None = None
    given: Tensor | None = None

    @property
    def host_sigma(self) -> Tensor:
        """`sigma` on the host."""
        return self.sigma.cpu() if self.levels is None else self.levels


class Denoiser(Protocol):
    """What a rollout calls: predicts the velocity (noise minus clean) of every stream at its noise level."""

    def __call__(
        self, streams: Mapping[str, Stream], text: Tensor, context: AttentionContext, run: Pass
    ) -> dict[str, Tensor]:
        """Velocities shaped like the streams' latents, of all streams that the pass computes.

        Args:
            streams: what is denoised.
            text: prompt tokens [b l d].
            context: attention over what this pass sees.
            run: which pass this is: what a step cache or a captured graph is keyed by.
        """
        ...


@dataclass(frozen=True)
class Tokens:
    """One stream inside the blocks. The tokens of a latent frame share their condition, so ranks split a stream by
    slicing `s` of `x`, in the same way in every latent frame. A family whose blocks read more, such as the prompt,
    extends this class.

    Args:
        x: [b f s d].
        condition: noise level, and what else the family adds to it, [b f 1 d].
        modulation: shift, scale and gate, twice, [b f 1 6 d]; each block adds its own.
        positions: float64 [f s a]: seconds, row, column.
    """

    x: Tensor
    condition: Tensor
    modulation: Tensor
    positions: Tensor


Block = Callable[[Mapping[str, Tokens], AttentionContext, int], dict[str, Tokens]]
"""One layer: tokens, the context in which it attends, its number -> tokens."""


class BlockDenoiser(Protocol):
    """A flow-matching model in three parts: latents to tokens, blocks in which tokens meet only by attention, and
    tokens to velocities. `models.blocks` runs them on one rank, `parallel.sharded_denoiser` on several."""

    @property
    def rope(self) -> Ropes:
        """Its positions to rotations."""
        ...

    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        """The attention sites, with space for chunks of that size."""
        ...

    @property
    def blocks(self) -> Iterable[Block]:
        """The layers, in order."""
        ...

    def embed(self, streams: Mapping[str, Stream], text: Tensor) -> dict[str, Tokens]:
        """Latents to tokens."""
        ...

    def head(self, tokens: Mapping[str, Tokens], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """Tokens to velocities, shaped like the latents of `streams`; of those streams only whose tokens are there."""
        ...


class TextEncoder(Protocol):
    """Turns a prompt into tokens; "" is the prompt of the unguided pass."""

    def check(self, prompt: str) -> None:
        """Raise `SpecError` for a prompt that the model cannot read."""
        ...

    def embed(self, prompt: str) -> Tensor:
        """Tokens [l d]. Raises `SpecError` for a prompt that the model cannot read."""
        ...


@runtime_checkable
class Releasable(Protocol):
    """A text encoder that need not stay in memory."""

    def release(self) -> None:
        """Drop the encoder's weights; the next prompt loads them again."""
        ...


class StreamDecoder(Protocol):
    """Decodes latents chunk by chunk; the chunks together equal one decode of all latents.

    Attributes:
        left_context: latents before new ones that reach into what becomes final with them.
        lookahead: latents that must follow one before its output is final.
    """

    left_context: int
    lookahead: int

    def decode(self, latents: Tensor, state: DecoderState, final: bool) -> tuple[Tensor, DecoderState]:
        """The output that is final with these latents, and the state for the next; `final` flushes the rest."""
        ...


class VideoEncoder(Protocol):
    """A video codec of a model that accepts images."""

    def encode(self, frames: Tensor) -> Tensor:
        """Latents [b f c h w] of the frames in -1..1 [b n 3 h w] that open a section."""
        ...


class SoundEncoder(Protocol):
    """A sound codec of a model that accepts sound.

    Attributes:
        channels: that it encodes.
    """

    channels: int

    def encode(self, sound: Tensor) -> Tensor:
        """Latents [1 l c] of sound in -1..1 [c n] that opens a section, n a multiple of the clock's audio stride."""
        ...


class FilmModel(Protocol):
    """What one film needs of a model family.

    Attributes:
        name: of the family.
        trained: whether the weights were trained, or are random and only show that the pipeline works.
        chunk_latents: video latents in one chunk.
        audio_lag: how far the sound's denoising lags the picture's; see `sampling.schedule.staggered`.
        rollout: how its chunks follow each other.
        kv_plan: what a chunk sees of the chunks before it.
        text, denoiser, video_codec, sound_codec: the networks.
        dtype, device: of the denoiser's weights.
        limits: what a storyboard must keep to.
        defaults: the values of a storyboard's keys that are left out.
        credit: the text in a film that names the model.
    """

    @property
    def name(self) -> str: ...
    @property
    def trained(self) -> bool: ...
    @property
    def chunk_latents(self) -> int: ...
    @property
    def audio_lag(self) -> float: ...
    @property
    def rollout(self) -> Rollout: ...
    @property
    def kv_plan(self) -> KVPlan: ...
    @property
    def text(self) -> TextEncoder: ...
    @property
    def denoiser(self) -> BlockDenoiser: ...
    @property
    def video_codec(self) -> StreamDecoder: ...
    @property
    def sound_codec(self) -> StreamDecoder: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def limits(self) -> ModelLimits: ...
    @property
    def defaults(self) -> ModelDefaults: ...
    @property
    def credit(self) -> str: ...

    def clock(self, fps: Fraction) -> MediaClock:
        """The clock of a film at `fps`: this family's strides and sample rate."""
        ...

    def latent_shapes(self, width: int, height: int) -> dict[str, tuple[int, ...]]:
        """The shape of one latent by stream, for a picture of `width` x `height` pixels."""
        ...

    def fingerprint(self) -> str:
        """A checksum of the weights, the same on every machine."""
        ...
