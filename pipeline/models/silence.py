"""The sound codec of models without sound: latents without channels, decoded to silence.

Shapes: b batch, l latents, n samples.
"""

from torch import Tensor

from longtake.pipeline.models.protocols import DecoderState


class Silence:
    """A `StreamDecoder` of latents [b l 0].

    Args:
        hop: samples per latent.
    """

    left_context = 0
    lookahead = 0

    def __init__(self, hop: int) -> None:
        self._hop = hop

    def decode(self, latents: Tensor, state: DecoderState, final: bool) -> tuple[Tensor, DecoderState]:
        """Samples [b n], all 0."""
        del final
        batch, length, _ = latents.shape
        return latents.new_zeros(batch, length * self._hop), state
