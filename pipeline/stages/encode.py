"""Encode: frames and sound of one chunk become one segment."""

from fractions import Fraction

from longtake.pipeline.guards import guard
from longtake.pipeline.media.write import GopEncoder
from longtake.pipeline.values import FrameChunk, Segment, SoundChunk


class EncodeStage:
    """Encodes each chunk's frames as one closed GOP of H.264. Sound passes through, uncompressed.

    A chunk's packets depend on that chunk alone, and equal those of one pass over the whole film bit for bit.

    Args:
        fps: frames per second of the film.
        quality: x264's QP, 0 (lossless) to 51 (worst).
        threads: encoder threads; another number gives other bits.
    """

    def __init__(self, fps: Fraction, quality: int, threads: int = 1) -> None:
        self._encoder = GopEncoder(fps, quality, threads)

    def __call__(self, frames: FrameChunk, sound: SoundChunk) -> Segment:
        """One chunk's segment; MediaError if its size cannot be encoded, NumericsError for unusable sound."""
        span = frames.span
        guard("encode", "samples of the sound", sound.pcm, f"chunk {span.index}", None)
        video_format, packets = self._encoder.encode(frames.frames, span.frames.start, span.index)
        return Segment(span, video_format, packets, sound)
