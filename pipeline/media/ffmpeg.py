"""FFmpeg's errors as `MediaError`, and the colour constants that all media modules share."""

from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from longtake.pipeline.errors import MediaError

# BT.709, limited range: what players assume for H.264 when they ignore the tags.
MATRIX = Colorspace.ITU709
PRIMARIES = ColorPrimaries.BT709
TRANSFER = ColorTrc.BT709
LIMITED = ColorRange.MPEG
FULL = ColorRange.JPEG

# Without these swscale rounds carelessly and drops chroma columns: pure colours come back 2 or 3 units off, not 1.
EXACT_SCALER = int(
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn FFmpeg's errors into a MediaError that begins with `what` was being done."""
    try:
        yield
    except av.FFmpegError as error:
        raise MediaError(f"{what}: {error}") from error
