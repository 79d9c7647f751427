"""Opening footage: any fsspec URL, read in large cached blocks, since readers seek."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import av
import fsspec
from av.container import InputContainer
from av.stream import Discard
from av.video.stream import VideoStream

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.ffmpeg import reported

_BLOCK_BYTES = 4 << 20
_KEPT = {"maxblocks": 8}
_BUFFER_BYTES = 1 << 20


@contextmanager
def opened(url: str) -> Iterator[InputContainer]:
    """The container at `url` for as long as the context is open; MediaError if it is none.

    Tags that are not UTF-8 keep their bytes, as lone surrogates.
    """
    with ExitStack() as stack:
        file = stack.enter_context(bytes_of(url))
        try:
            container = av.open(file, "r", buffer_size=_BUFFER_BYTES, metadata_errors="surrogateescape")
        except av.FFmpegError as error:
            raise MediaError(f"{url} is no film that can be read, or a damaged one ({error.strerror})") from error
        stack.enter_context(container)
        stack.enter_context(reported(f"reading {url}"))
        yield container


@contextmanager
def bytes_of(url: str) -> Iterator[fsspec.spec.AbstractBufferedFile]:
    """The file at `url`, open for reading; MediaError if it cannot be."""
    try:
        files, path = fsspec.core.url_to_fs(url)
        file = files.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="blockcache", cache_options=_KEPT)
    except (OSError, ValueError, ImportError) as error:
        raise MediaError(f"reading {url}: {error}") from error
    try:
        with file:
            yield file
    except OSError as error:
        raise MediaError(f"reading {url}: {error}") from error


def only(container: InputContainer, stream: VideoStream) -> None:
    """Have the container skip every other stream, without reading it if the format allows that."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
