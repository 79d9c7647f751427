"""FFmpeg's errors as `MediaError`, and the colour constants that all media modules share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
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


def _unnamed(kind: type[SideDataType], value: object) -> SideDataType:
    member = object.__new__(kind)
    member._name_ = f"UNNAMED_{value}"
    member.__dict__["_value_"] = value
    return member


# PyAV 18 knows fewer kinds of side data than its FFmpeg, and fails on the others: EXIF, LCEVC, MV-HEVC.
setattr(SideDataType, "_missing_", classmethod(_unnamed))  # noqa: B010 (mypy takes no assignment to a method)


def side_data(picture: VideoFrame, kind: SideDataType) -> bytes | None:
    """The bytes of one kind of a picture's side data; None if it has none."""
    held: Any = picture.side_data
    return bytes(held[kind]) if kind in held else None


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn FFmpeg's errors into a MediaError that begins with `what` was being done."""
    try:
        yield
    except av.FFmpegError as error:
        raise MediaError(f"{what}: {error}") from error
