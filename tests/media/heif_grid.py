"""An AVIF still of four tiles, as phones write HEIC, which no tool here writes."""

import struct
from fractions import Fraction

import av
import numpy as np

from longtake.pipeline.media.ffmpeg import same_scheduling

TILE, LEVELS = 64, (40, 90, 150, 220)


def _box(kind, *parts):
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind, *parts, version=0):
    return _box(kind, struct.pack(">I", version << 24), *parts)


def _tile(level):
    encoder = av.CodecContext.create("libsvtav1", "w")
    encoder.width = encoder.height = TILE
    encoder.pix_fmt, encoder.time_base, encoder.options = "yuv420p", Fraction(1, 25), {"preset": "12"}
    encoder.flags |= 1 << 22
    frame = av.VideoFrame.from_ndarray(np.full((TILE, TILE, 3), level, np.uint8)).reformat(format="yuv420p")
    frame.pts = 0
    with same_scheduling():
        data = b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
    return data, bytes(encoder.extradata or b"")


def write_grid(path, width, height, quarters=0):
    """Write a picture of 2x2 tiles, of which `width` x `height` pixels are shown, to be turned by quarters."""
    tiles = [_tile(level) for level in LEVELS]
    grid = struct.pack(">BBBBHH", 0, 0, 1, 1, width, height)
    items = range(2, 2 + len(tiles))
    names = [_full(b"infe", struct.pack(">HH", 1, 0) + b"grid\0", version=2)]
    names += [_full(b"infe", struct.pack(">HH", item, 0) + b"av01\0", version=2) for item in items]
    uses = _full(b"iref", _box(b"dimg", struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *items)))
    sizes = [_full(b"ispe", struct.pack(">II", *size)) for size in ((width, height), (TILE, TILE))]
    properties = _box(b"ipco", *sizes, _box(b"av1C", tiles[0][1]), _box(b"irot", bytes([quarters])))
    owners = [struct.pack(">HBBB", 1, 2, 0x81, 0x84), *(struct.pack(">HBBB", item, 2, 0x82, 0x83) for item in items)]
    owned = _full(b"ipma", struct.pack(">I", len(owners)), *owners)

    def meta(start):
        places = struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(grid))
        for item, (data, _) in zip(items, tiles, strict=True):
            places += struct.pack(">HHHHII", item, 0, 0, 1, start, len(data))
            start += len(data)
        located = _full(b"iloc", b"\x44\0" + struct.pack(">H", 1 + len(tiles)), places, version=1)
        kind = _full(b"hdlr", bytes(4) + b"pict" + bytes(13))
        listed = _full(b"iinf", struct.pack(">H", len(names)), *names)
        primary = _full(b"pitm", struct.pack(">H", 1))
        return _full(
            b"meta", kind, primary, located, listed, uses, _box(b"iprp", properties, owned), _box(b"idat", grid)
        )

    brand = _box(b"ftyp", b"avif\0\0\0\0mif1avif")
    start = len(brand) + len(meta(0)) + 8
    path.write_bytes(brand + meta(start) + _box(b"mdat", *(data for data, _ in tiles)))
    return str(path)
