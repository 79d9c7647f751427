"""Opening a film, a sound or a picture that others made: any fsspec URL, read in large cached blocks."""

import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import av
from av.codec import CodecContext
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream
from fsspec.implementations.local import LocalFileSystem

from longtake.pipeline.errors import MediaError
from longtake.pipeline.journal.store import located
from longtake.pipeline.media.ffmpeg import reported

_BLOCK_BYTES = 4 << 20
_KEPT = {"maxblocks": 8}
_BUFFER_BYTES = 1 << 20
_MOST_PIXELS = 8192 * 8192
_NOTHING_ELSE = {"protocol_whitelist": "none"}
"""Keep FFmpeg from opening what a file names: a playlist could have it fetch any URL and read any file."""
_LISTS = {
    b"#EXTM3U": "a playlist",
    b"ffconcat": "a list of files to join",
    b"v=0": "a description of a network session",
    b"<MPD": "a DASH manifest",
}


@contextmanager
def opened(url: str, size: int | None = None) -> Iterator[InputContainer]:
    """The container at `url` for as long as the context is open; MediaError if it is none.

    Tags that are not UTF-8 keep their bytes, as lone surrogates.

    Args:
        size: the bytes to read, so that every reader of a file that grows sees the same film; None for all of them.
    """
    with ExitStack() as stack:
        file = stack.enter_context(bytes_of(url))
        try:
            container = av.open(
                _Head(file, size, url),
                "r",
                buffer_size=_BUFFER_BYTES,
                metadata_errors="surrogateescape",
                options=_NOTHING_ELSE,
            )
        except (av.FFmpegError, ValueError) as error:
            if kind := _kind_of_list(file):
                raise MediaError(f"{url} is {kind}, and what it names is not opened; name the film itself") from error
            reason = getattr(error, "strerror", error)
            raise MediaError(f"reading {url}: it is no film that can be read, or a damaged one ({reason})") from error
        stack.enter_context(container)
        stack.enter_context(reported(f"reading {url}"))
        yield container


@contextmanager
def bytes_of(url: str) -> Iterator[Any]:
    """The file at `url`, open for reading and seeking.

    Raises:
        FileNotFoundError: there is no such file.
        MediaError: it cannot be read, or is a pipe or a folder.
    """
    try:
        files, path = located(url)
        if isinstance(files, LocalFileSystem):
            _check_regular(path)
        file = files.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="blockcache", cache_options=_KEPT)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise MediaError(f"reading {url}: {error}") from error
    try:
        with file:
            yield file
    except OSError as error:
        raise MediaError(f"reading {url}: {error}") from error


def only(container: InputContainer, *streams: Stream) -> None:
    """Have the container skip all other streams, without reading them if the format allows that."""
    kept = {stream.index for stream in streams}
    for other in container.streams:
        if other.index not in kept:
            other.discard = Discard.all


def picture_stream(container: InputContainer, url: str) -> VideoStream:
    """The stream that is the film: the first that is no cover, or the one that is marked as the default."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(f"{url} holds no picture: no moving picture, only {kinds}; give a film")
    if all(stream.disposition & Disposition.dependent for stream in streams):
        raise MediaError(f"{url} is a still of {len(streams)} tiles, which only `image` reads; convert it to PNG")
    stream = min(streams, key=lambda stream: (not stream.disposition & Disposition.default, _is_still(stream)))
    check_decodable(stream, url)
    if codec_name(stream) == "webp" and _is_animated_webp(url):
        raise MediaError(f"{url} is an animated WebP, which FFmpeg cannot decode; convert it to PNG or MP4")
    if stream.width * stream.height > _MOST_PIXELS:
        raise MediaError(
            f"{url} has pictures of {stream.width}x{stream.height}; at most {_MOST_PIXELS} pixels are read:"
            " scale it down first"
        )
    stream.codec_context.options = {"max_pixels": str(_MOST_PIXELS)}  # for sizes that change later, or are a lie
    return stream


def _is_still(stream: VideoStream) -> bool:
    """Whether it is the one picture that an animated AVIF or HEIF shows where it cannot move."""
    return stream.frames == 1 and stream.duration is None


def _is_animated_webp(url: str) -> bool:
    """Whether a file is a WebP that moves (RFC 9649, 2.7), which FFmpeg reads as a damaged still."""
    with bytes_of(url) as file:
        head = file.read(64)
    return bool(head[8:16] == b"WEBPVP8X" and head[20:21] and head[20] & 2)


def check_decodable(stream: Stream, url: str) -> None:
    """Raise `MediaError` for a stream that FFmpeg cannot decode, whatever it holds."""
    if codec_name(stream) == UNKNOWN:
        raise MediaError(f"{url}: its {stream.type} has a codec that FFmpeg does not know; convert it first")


def codec_name(stream: Stream) -> str:
    """FFmpeg's name of a stream's codec, or `UNKNOWN`."""
    context: CodecContext | None = stream.codec_context
    return getattr(stream, "name", None) or UNKNOWN if context is None else context.name


UNKNOWN = "unknown"
"""The name of a codec that FFmpeg does not know."""


def _kind_of_list(file: Any) -> str | None:
    """What kind of list of other files a file is, if any."""
    file.seek(0)
    head = file.read(4096).lstrip(b"\xef\xbb\xbf \r\n")
    return next(
        (kind for mark, kind in _LISTS.items() if head.startswith(mark) or (mark == b"<MPD" and mark in head)), None
    )


def _check_regular(path: str) -> None:
    mode = Path(path).stat().st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode):
        raise MediaError(f"{path} is a pipe or a device, which can be read only once; write it to a file first")
    if stat.S_ISDIR(mode):
        raise MediaError(f"{path} is a folder; name a file")


class _Head:
    """The first bytes of an open file, and its name, by which FFmpeg recognizes kinds of files that have no mark.

    Args:
        size: how many bytes; None for all of them.
    """

    def __init__(self, file: Any, size: int | None, url: str) -> None:
        self._file, self.name = file, url.rpartition("/")[2]
        self._size = int(file.seek(0, 2)) if size is None else size
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        data: bytes = self._file.read(left if count < 0 else min(count, left))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 2:
            offset, whence = self._size + offset, 0
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())
