"""A new picture track's description: size, shape of a pixel, colours and HDR metadata, for any container to copy.

PyAV copies a track's description from an open file, but cannot set HDR10's static metadata itself. So the description
is written as a Matroska file of one empty track (RFC 9559), a few hundred bytes in memory, and read back.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO

import av
from av.video.stream import VideoStream

from longtake.pipeline.footage.values import Colour, Footage, LightLevel, MasteringDisplay
from longtake.pipeline.media.ffmpeg import reported

_CODEC_IDS = {
    "h264": "V_MPEG4/ISO/AVC",
    "hevc": "V_MPEGH/ISO/HEVC",
    "av1": "V_AV1",
    "ffv1": "V_FFV1",
    "prores": "V_PRORES",
}
_DISPLAY_IN_PIXELS, _DISPLAY_AS_RATIO = 0, 3


@contextmanager
def described_track(footage: Footage, codec: str, size: tuple[int, int], colour: Colour) -> Iterator[VideoStream]:
    """An open stream of `codec`, width by height `size`, that has everything but pictures."""
    track = _element(0xD7, 1) + _element(0x73C5, 1) + _element(0x83, 1) + _element(0x86, _CODEC_IDS[codec].encode())
    track += _element(0xE0, _video(footage, size, colour))
    header = _element(0x1A45DFA3, _element(0x4282, b"matroska") + _element(0x4287, 4) + _element(0x4285, 2))
    segment = _element(0x1549A966, _element(0x2AD7B1, 1_000_000)) + _element(0x1654AE6B, _element(0xAE, track))
    segment += _element(0x1F43B675, _element(0xE7, 0))  # a cluster without blocks: where readers stop
    file = BytesIO(header + _element(0x18538067, segment))
    with reported("describing the picture's track"):
        container = av.open(file, "r", format="matroska")
    with container:
        yield container.streams.video[0]


def _video(footage: Footage, size: tuple[int, int], colour: Colour) -> bytes:
    width, height = size
    video = _element(0xB0, width) + _element(0xBA, height)
    shape = footage.sample_aspect_ratio
    if shape is not None:
        display = shape * Fraction(width, height)
        video += _element(0x54B0, display.numerator) + _element(0x54BA, display.denominator)
        video += _element(0x54B2, _DISPLAY_AS_RATIO)
    tags = _element(0x55B1, colour.matrix) + _element(0x55B9, colour.range)
    tags += _element(0x55BA, colour.transfer) + _element(0x55BB, colour.primaries)
    return video + _element(0x55B0, tags + _light(footage.light_level) + _mastering(footage.mastering))


def _light(level: LightLevel | None) -> bytes:
    return b"" if level is None else _element(0x55BC, level.max_content) + _element(0x55BD, level.max_frame_average)


def _mastering(mastering: MasteringDisplay | None) -> bytes:
    if mastering is None:
        return b""
    values: dict[int, Fraction] = {}
    if mastering.primaries is not None and mastering.white_point is not None:
        places = [*(value for point in mastering.primaries for value in point), *mastering.white_point]
        values |= dict(zip(range(0x55D1, 0x55D9), places, strict=True))
    if mastering.luminance is not None:
        darkest, brightest = mastering.luminance
        values |= {0x55D9: brightest, 0x55DA: darkest}
    return _element(0x55D0, b"".join(_element(name, struct.pack(">d", value)) for name, value in values.items()))


def _element(name: int, content: bytes | int) -> bytes:
    """One EBML element; whole numbers as eight bytes, which every reader takes."""
    if isinstance(content, int):
        content = content.to_bytes(8, "big")
    identity = name.to_bytes((name.bit_length() + 7) // 8, "big")
    return identity + (len(content) | 1 << 56).to_bytes(8, "big") + content
