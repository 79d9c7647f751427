"""Files of a take as the page may fetch them: a type, a size, and any part of the bytes."""

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
    """An open file: its MIME type, its length in bytes, and its bytes from one offset to another."""

    content_type: str
    size: int
    read: Callable[[int, int], bytes]


@contextmanager
def opened(store: Store, name: str) -> Iterator[TakeFile]:
    """The file under `name`, for as long as the block runs, even if a newer one takes its place meanwhile.

    Raises:
        FileNotFoundError: there is none; `name` is of a kind that no page needs, or leads out of the store.
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
