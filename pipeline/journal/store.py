"""Where a film and its journal live: bytes under names, each put as a whole or not at all, on any file system."""

import errno
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from longtake.pipeline.errors import LongtakeError, SpecError

# These show a file while it is being written, so it is written under another name and then moved.
# Object stores (S3, GCS, Azure) show an upload only once it is whole.
_SHOWS_UNFINISHED = {"memory", "sftp", "ssh"}

# Of two writers who create the same name at once, these refuse one. S3: PutObject with If-None-Match.
_REFUSES_SECOND = {"file", "local", "memory", "s3", "s3a"}
_CREATE_LOCK = threading.Lock()  # fsspec's memory looks first and puts then


class Store:
    """An output root. A reader of any name sees the old bytes or the new ones, never a part of either.

    Passing faults of an object store (500, 503, timeouts, torn connections) are retried by its own library. A fault
    that stays raises OSError with the name of the object.

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
        self._refuses_second = not _REFUSES_SECOND.isdisjoint(protocols)
        self._url = self._root if self._is_local else url
        self._may_write: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        """Where the output root is: an absolute path on this machine, or a URL."""
        return str(self._url)

    @property
    def is_local(self) -> bool:
        """Whether names are paths of this machine."""
        return self._is_local

    @property
    def can_put_if_absent(self) -> bool:
        """Whether `put_if_absent` is exact here; elsewhere it is put and read back."""
        return self._refuses_second

    @contextmanager
    def guarded(self, may_write: Callable[[], None]) -> Iterator[None]:
        """While the block runs, every put and delete through this object asks `may_write` first, which may raise."""
        before, self._may_write = self._may_write, may_write
        try:
            yield
        finally:
            self._may_write = before

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

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store `data` under `name` unless something is there already; whether it is there now.

        Of several who try at once, exactly one is told True. Where `can_put_if_absent` is false, the last one is,
        as far as they all look after they all have put.

        Args:
            data: bytes that nobody else puts: when an answer is lost and the library asks again, they tell whose
                object it is that stands in the way.
        """
        path = self._path(name)
        try:
            with self._named(name, "put"):
                self._may_write()
                self._create(path, data)
        except OSError:
            if not self.exists(name):
                raise
        return self.get(name) == data

    def get(self, name: str) -> bytes:
        """The bytes under `name`; FileNotFoundError if nothing was put there."""
        path = self._path(name)
        with self._named(name, "read"):
            data: bytes = self._fs.cat_file(path)
        return data

    def exists(self, name: str) -> bool:
        """Whether something was put under `name`."""
        path = self._path(name)
        with self._named(name, "looked for"):
            return bool(self._fs.exists(path))

    def list(self, folder: str = "") -> dict[str, int]:
        """Everything that was put below `folder`, or anywhere: sizes in bytes by name, in order."""
        path = self._path(folder) if folder else self._root
        with self._named(folder, "listed"):
            found = self._fs.find(path, detail=True)
        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: int(found[path]["size"]) for path in sorted(found)}

    def delete(self, name: str) -> None:
        """Remove what is under `name`, if anything."""
        path = self._path(name)
        with self._named(name, "deleted"):
            self._may_write()
            if self._fs.exists(path):
                self._fs.rm_file(path)

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
        with self._named(name, "put"):
            self._may_write()
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

    def _create(self, path: str, data: bytes) -> None:
        """Put `data` where nothing is; an OSError if something is."""
        if self._is_local:
            _create_local(Path(path), data)
        elif not self._refuses_second:
            if self._fs.exists(path):
                raise FileExistsError(path)
            self._fs.pipe_file(path, data)
        else:
            with _CREATE_LOCK:
                self._fs.pipe_file(path, data, mode="create")

    @contextmanager
    def _named(self, name: str, act: str) -> Iterator[None]:
        """Make one OSError that names the object of whatever a store's library raises."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, LongtakeError):
            raise
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__ == "builtins":
                raise  # a mistake in a program, not a fault of a store
            where = f"{str(self._url).rstrip('/')}/{name}"
            number = getattr(error, "errno", None) or errno.EIO
            raise OSError(number, f"{where} could not be {act}: {error}") from error


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
            fsync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        fsync(path.parent)  # the new name itself must survive a power cut


def _create_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(_beside(str(path)))
    try:
        unfinished.write_bytes(data)
        fsync(unfinished)
        path.hardlink_to(unfinished)  # refuses a name that is taken, and shows whole files only
    finally:
        unfinished.unlink(missing_ok=True)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Have a file, or a folder's names, survive a power cut from here on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
