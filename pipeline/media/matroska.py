"""The crop of a Matroska picture track (RFC 9559, 5.1.4.1.28): players do not show these rows and columns.

FFmpeg's decoders leave them in, and PyAV does not hand the numbers out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from longtake.pipeline.media.source import bytes_of

_HEAD_BYTES = 1 << 20
_SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_BOTTOM, _TOP, _LEFT, _RIGHT = 0x54AA, 0x54BB, 0x54CC, 0x54DD


@dataclass(frozen=True)
class Crop:
    """Rows and columns at the edges of a picture that are not shown."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @property
    def height(self) -> int:
        """Rows that are not shown."""
        return self.top + self.bottom

    @property
    def width(self) -> int:
        """Columns that are not shown."""
        return self.left + self.right

    def of(self, pixels: Any) -> Any:
        """The part of `pixels`, an array [... h w], that is shown."""
        rows, columns = pixels.shape[-2:]
        return pixels[..., self.top : rows - self.bottom, self.left : columns - self.right]


UNCROPPED = Crop()
"""Of a picture that is shown whole."""


def crop_of(url: str, container: str, index: int) -> Crop:
    """The crop of a picture's track; nothing for files of other containers.

    Args:
        container: FFmpeg's name of the container.
        index: of the stream. FFmpeg counts tracks in their order in the file.
    """
    if "matroska" not in container:
        return UNCROPPED
    with bytes_of(url) as file:
        head: bytes = file.read(_HEAD_BYTES)
    tracks = list(_inside(head, (_SEGMENT, _TRACKS, _TRACK)))
    if index >= len(tracks):
        return UNCROPPED
    video = dict(_elements(dict(_elements(tracks[index])).get(_VIDEO, b"")))
    return Crop(*(int.from_bytes(video.get(edge, b""), "big") for edge in (_TOP, _BOTTOM, _LEFT, _RIGHT)))


def _inside(data: bytes, path: tuple[int, ...]) -> Iterator[bytes]:
    for name, content in _elements(data):
        if name == path[0]:
            if len(path) == 1:
                yield content
            else:
                yield from _inside(content, path[1:])


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Names and contents of the EBML elements (RFC 8794) that follow each other in `data`."""
    at = 0
    while at < len(data):
        name_width, size_at = 9 - data[at].bit_length(), at + 9 - data[at].bit_length()
        if name_width > 4 or size_at >= len(data):
            return
        size_width = 9 - data[size_at].bit_length()
        start = size_at + size_width
        size = int.from_bytes(data[size_at:start], "big") & ((1 << 7 * size_width) - 1)
        yield int.from_bytes(data[at:size_at], "big"), data[start : start + size]
        at = start + size
