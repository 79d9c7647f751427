"""What the road asks of a model: a denoiser over named streams, codecs that decode in chunks, a text encoder.

Shapes: b batch, f latent frames, c channels, h height, w width, l audio latents or text tokens, d width, n samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from pipeline.attention.context import AttentionContext
from pipeline.attention.kv_plan import SiteLayout
from pipeline.attention.rope import Rope

DecoderState = Any
"""What a decoder carries from one chunk to the next; `None` at a section's start. Only its decoder looks inside."""


@dataclass(frozen=True)
class Stream:
    """One modality in one pass.

    Args:
        latents: [b f c h w] for video, [b l c] for audio.
        sigma: noise level of each latent frame, float32 or finer [b f]; 0 is clean, 1 is noise.
        times_s: the middle of each latent frame in seconds, float64 [f].
    """

    latents: Tensor
    sigma: Tensor
    times_s: Tensor


class Denoiser(Protocol):
    """A flow-matching model: predicts the velocity (noise minus clean) of every stream at its noise level."""

    rope: Rope

    def sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        """The attention sites, with room for chunks of that size."""
        ...

    def __call__(self, streams: Mapping[str, Stream], text: Tensor, context: AttentionContext) -> dict[str, Tensor]:
        """Velocities shaped like the streams' latents, for prompt tokens `text` [b l d]."""
        ...


class TextEncoder(Protocol):
    """Turns a prompt into tokens; "" is the prompt of the unguided pass."""

    def embed(self, prompt: str) -> Tensor:
        """Tokens [l d]. Raises `SpecError` for a prompt that the model cannot read."""
        ...


class StreamDecoder(Protocol):
    """Decodes latents chunk by chunk; the chunks together equal one decode of all latents.

    Attributes:
        left_context: latents before the first one that reach into its output.
        lookahead: latents after the last one that its output waits for.
    """

    left_context: int
    lookahead: int

    def decode(self, latents: Tensor, state: DecoderState, final: bool) -> tuple[Tensor, DecoderState]:
        """What has become final with these latents, and the state for the next; `final` flushes what waits."""
        ...
