"""HEIF stills that are made of tiles, as phones write them (ISO/IEC 23008-12, 6.6.2.3).

FFmpeg gives each tile as a stream of its own, and no picture; PyAV does not say how they lie. Their size and the one of
the whole picture tell.

Shapes: h height, w width.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.source import bytes_of
from longtake.pipeline.media.times import intact

Picture = NDArray[np.uint8]

_HEAD_BYTES = 1 << 20


def tiles_of(streams: Sequence[VideoStream]) -> list[VideoStream]:
    """The streams that are tiles of a larger picture."""
    return [stream for stream in streams if stream.disposition & Disposition.dependent]


def stitched(url: str, container: InputContainer, to_rgb: Callable[[VideoFrame], Picture]) -> Picture:
    """The whole picture [h w 3] of a file of tiles, upright.

    Raises:
        MediaError: its tiles do not cover a picture, or one does not decode.
    """
    with bytes_of(url) as file:
        head: bytes = file.read(_HEAD_BYTES)
    tiles = tiles_of(container.streams.video)
    shown: dict[int, Picture] = {}
    for packet in container.demux(tiles):
        for frame in intact(packet, url, tolerant=False):
            shown.setdefault(packet.stream.index, to_rgb(frame))
    first = next(iter(shown.values()), None)
    if first is None:
        raise MediaError(f"{url} holds no picture that decodes; it is damaged, or its codec is unknown here")
    rows, columns = first.shape[:2]
    for width, height in sorted(_sizes(head), reverse=True):
        down, across = -(-height // rows), -(-width // columns)
        parts = [shown[tile.index] for tile in tiles[: down * across] if tile.index in shown]
        if 1 < down * across == len(parts) and all(part.shape == first.shape for part in parts):
            lines = [np.concatenate(parts[at : at + across], axis=1) for at in range(0, len(parts), across)]
            return _turned(np.concatenate(lines)[:height, :width], head)
    raise MediaError(f"{url} is made of {len(tiles)} tiles that do not cover a picture; convert it to PNG or JPEG")


def _sizes(head: bytes) -> set[tuple[int, int]]:
    """Width and height of all pictures and tiles that the file describes."""
    return {struct.unpack(">II", body[4:12]) for body in _boxes(head, b"ispe") if len(body) >= 12}


def _turned(picture: Picture, head: bytes) -> Picture:
    """The picture turned and mirrored as the file asks (6.5.10 and 6.5.12)."""
    quarters = next((body[0] & 3 for body in _boxes(head, b"irot") if body), 0)
    mirror = next((body[0] & 1 for body in _boxes(head, b"imir") if body), None)
    turned: Any = np.rot90(picture, quarters)
    if mirror is not None:
        turned = turned[:, ::-1] if mirror else turned[::-1]
    return np.ascontiguousarray(turned)


def _boxes(head: bytes, kind: bytes) -> Iterator[bytes]:
    at = head.find(kind)
    while at >= 4:
        size = int.from_bytes(head[at - 4 : at], "big")
        yield head[at + 4 : at - 4 + min(size, 64)]
        at = head.find(kind, at + 4)
