"""Where a film and its journal live: bytes under names, each put as a whole or not at all, on any file system."""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import SpecError

# These show a file while it is being written, so it is written under another name and then moved.
# Object stores (S3, GCS, Azure) show an upload only once it is whole.
_SHOWS_UNFINISHED = {"memory", "sftp", "ssh"}


class Store:
    """An output root. A reader of any name sees the old bytes or the new ones, never a part of either.

    Args:
        url: a local path or any fsspec URL (`file://`, `memory://`, `s3://bucket/take` ...).
    """

    def __init__(self, url: str) -> None:
        # Without listings caches, so that what another process put is seen at once.
        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._is_local = isinstance(self._fs, LocalFileSystem)
        protocols = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        self._shows_unfinished = not _SHOWS_UNFINISHED.isdisjoint(protocols)
        self._url = self._root if self._is_local else url

    @property
    def url(self) -> str:
        """Where the output root is: an absolute path on this machine, or a URL."""
        return str(self._url)

    @property
    def is_local(self) -> bool:
        """Whether names are paths of this machine."""
        return self._is_local

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Store `data` under `name`, atomically.

        Args:
            durable: whether it must survive a power cut from here on; what can be made again need not wait for a disk.
        """

        def write(path: str) -> None:
            if self._is_local:
                Path(path).write_bytes(data)
            else:
                self._fs.pipe_file(path, data)

        self._put(name, write, durable)

    def put_file(self, name: str, local_path: Path) -> None:
        """Store a copy of a file of this machine under `name`, atomically and without reading it into memory."""

        def write(path: str) -> None:
            if self._is_local:
                shutil.copyfile(local_path, path)
            else:
                self._fs.put_file(str(local_path), path)

        self._put(name, write, durable=True)

    def get(self, name: str) -> bytes:
        """The bytes under `name`; FileNotFoundError if nothing was put there."""
        data: bytes = self._fs.cat_file(self._path(name))
        return data

    def exists(self, name: str) -> bool:
        """Whether something was put under `name`."""
        return bool(self._fs.exists(self._path(name)))

    def url_of(self, name: str) -> str:
        """Where a reader finds `name`: an absolute path on this machine, or a URL."""
        return self._join(self._url, name)

    def _path(self, name: str) -> str:
        return self._join(self._root, name)

    def _join(self, root: str, name: str) -> str:
        _check(name)
        return f"{root.rstrip('/')}/{name}"

    def _put(self, name: str, write: Callable[[str], None], durable: bool) -> None:
        path = self._path(name)
        if self._is_local:
            _write_local(Path(path), write, durable)
        elif self._shows_unfinished:
            unfinished = _beside(path)
            try:
                write(unfinished)
                self._fs.mv(unfinished, path)
            except BaseException:
                if self._fs.exists(unfinished):
                    self._fs.rm_file(unfinished)
                raise
        else:
            write(path)


def _check(name: str) -> None:
    parts = name.split("/")
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise SpecError(
            f"{name!r} is no name inside an output root; use plain parts joined by '/', such as 'live/video.m3u8'"
        )


def _beside(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}.{secrets.token_hex(8)}.unfinished"


def _write_local(path: Path, write: Callable[[str], None], durable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(_beside(str(path)))
    try:
        write(str(unfinished))
        if durable:
            _fsync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        _fsync(path.parent)  # the new name itself must survive a power cut


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
