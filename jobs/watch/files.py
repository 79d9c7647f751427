"""The files of a take that the page may fetch: a type, a size, and any range of bytes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import fsspec

from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store

CONTENT_TYPES = {
    ".m3u8": "application/vnd.apple.mpegurl",
    ".mp4": "video/mp4",
    ".m4s": "video/iso.segment",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
}


@dataclass(frozen=True)
class TakeFile:
    """An open file: its MIME type, its size in bytes, and a function that reads bytes [start, stop)."""

    content_type: str
    size: int
    read: Callable[[int, int], bytes]


@contextmanager
def opened(store: Store, name: str) -> Iterator[TakeFile]:
    """The file called `name`; within the block it stays the same, even if a newer one replaces it.

    Raises:
        FileNotFoundError: it does not exist, is of a type that the page does not need, or is outside the store.
    """
    content_type = CONTENT_TYPES.get(PurePosixPath(name).suffix)
    if content_type is None:
        raise FileNotFoundError(name)
    try:
        url = store.url_of(name)
    except SpecError as error:
        raise FileNotFoundError(name) from error
    if store.is_local:
        path = Path(url).resolve()
        if not path.is_relative_to(Path(store.url).resolve()) or not path.is_file():
            raise FileNotFoundError(name)
        with path.open("rb") as file:
            yield TakeFile(content_type, os.fstat(file.fileno()).st_size, partial(_pread, file.fileno()))
    elif content_type == "video/mp4":  # a film may be larger than memory
        fs, path_there = fsspec.core.url_to_fs(url, use_listings_cache=False)
        yield TakeFile(content_type, fs.info(path_there)["size"], partial(fs.cat_file, path_there))
    else:
        data = store.get(name)
        yield TakeFile(content_type, len(data), lambda start, stop: data[start:stop])


def _pread(descriptor: int, start: int, stop: int) -> bytes:
    return os.pread(descriptor, stop - start, start)
