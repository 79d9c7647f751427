"""Whether a file is complete, by the sizes in its outermost layer. FFmpeg reads a truncated file without an error."""

from collections.abc import Iterator
from typing import Any

from longtake.pipeline.errors import MediaError

_EBML, _SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")
_TO_THE_END = 1 << 62
# Writers to a pipe cannot come back to fill in the size.
_UNKNOWN_RIFF_SIZES = {0, 0xFFFFFFFF}
_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot"}
# What lies behind the last box of these kinds is no part of the film: a player ignores it.
_NEEDED_BOXES = {b"moov", b"moof", b"mdat"}
_INDICES = {b"moov", b"meta"}  # of a film, and of a picture (HEIF, AVIF)
_HEAD_BYTES = 4096


def check_whole(file: Any, url: str) -> None:
    """Raise `MediaError` for an empty file, and for an MP4, Matroska or AVI file that is cut off."""
    size = file.seek(0, 2)
    if not size:
        raise MediaError(f"{url} is empty")
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    stop = size
    if head[4:8] in _FIRST_BOXES:
        boxes = dict(_boxes(file, size))
        stop = max((end for kind, end in boxes.items() if kind in _NEEDED_BOXES), default=size)
        if stop <= size and not boxes.keys() & _INDICES:
            raise MediaError(f"{url} has no index (moov): it is cut off, or was never finished; fetch it again")
    elif head.startswith(_EBML):
        stop = _segment_stop(head)
    elif head.startswith(b"RIFF"):
        length = int.from_bytes(head[4:8], "little")
        stop = 0 if length in _UNKNOWN_RIFF_SIZES else 8 + length
    file.seek(0)
    if size < stop < _TO_THE_END:
        raise MediaError(
            f"{url} is cut off: it promises {stop} bytes and has {size}; fetch it again, or use longtake upscale"
            " --damaged skip for what is there"
        )


def _boxes(file: Any, size: int) -> Iterator[tuple[bytes, int]]:
    """Each outermost box's name and where it ends (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:
            length = size - at
        at += max(8, length)
        yield head[4:8], at


def _segment_stop(head: bytes) -> int:
    """Where a Matroska file's one segment ends (RFC 8794, 4 and 6); 0 or far away if it does not say."""
    length, start = _length(head, 4)
    at = start + length
    if head[at : at + 4] != _SEGMENT:
        return 0
    length, start = _length(head, at + 4)
    return start + length


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of variable size and where it ends; all bits set say that it is not known."""
    width = 9 - (data[at].bit_length() if at < len(data) else 0)
    number = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (_TO_THE_END if number == (1 << 7 * width) - 1 else number), at + width
