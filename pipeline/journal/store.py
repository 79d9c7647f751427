"""Storage of a film and its journal: bytes under names, each written atomically, on any file system."""

import errno
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import sleep
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from longtake.pipeline.errors import LongtakeError, SpecError
from longtake.pipeline.names import stays_below

# On these a file is visible while it is being written, so it is written under another name and then moved.
# Object stores (S3, GCS, Azure) show an upload only once it is complete.
_SHOWS_UNFINISHED = {"memory", "sftp", "ssh"}

# If two writers create the same name at once, these refuse one. S3 and Azure: If-None-Match; GCS: ifGenerationMatch.
_REFUSES_SECOND = {"file", "local", "memory", "s3", "gs", "abfs"}
# What serves them, and the first release (year, month) that asks for it.
_SERVED_BY = {"s3": ("s3fs", (2024, 12)), "gs": ("gcsfs", (2025, 2)), "abfs": ("adlfs", (2024, 12))}
SETTLE_S = 2.0
"""Elsewhere a writer looks for the name, puts, and looks again after this time whose bytes stayed."""

_CREATE_LOCK = threading.Lock()  # fsspec's memory store tests first and writes afterwards


# Several names of one file system.
_ALIASES = {"s3a": "s3", "gcs": "gs", "az": "abfs", "local": "file"}


def canonical(url: str) -> str:
    """The one name of a place: an absolute path on this machine, or a URL; without `//`, `.`, `..` or a last `/`.

    Symbolic links stay as they are; see `resolved`. Chained URLs and those of web servers, which may mean something
    else by such parts, are not changed.
    """
    scheme, has_scheme, path = url.partition("://")
    scheme = _ALIASES.get(scheme.lower(), scheme.lower())
    if has_scheme and ("::" in scheme or scheme in ("http", "https")):
        return url
    if not has_scheme or scheme == "file":
        local = str(LocalFileSystem._strip_protocol(f"file://{path.removeprefix('localhost')}" if has_scheme else url))
        links = ".." in local.split("/")  # the folder above a link is that of its target
        return str(Path(local).resolve()) if links else os.path.abspath(f"/{local.lstrip('/')}")  # noqa: PTH100
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[max(1, len(parts) - 1) :]  # never the bucket
        elif part not in ("", "."):
            parts.append(part)
    return f"{scheme}://{'/'.join(parts)}"


def resolved(url: str) -> str:
    """The one name of a place, symbolic links followed."""
    place = canonical(url)
    return place if "://" in place else str(Path(place).resolve())


def located(url: str) -> tuple[Any, str]:
    """The file system of `url` and its path there. Without a scheme it is a local path, even if it holds `::`.

    Raises:
        SpecError: no file system serves it.
    """
    url = canonical(url)
    if "://" not in url:
        return LocalFileSystem(use_listings_cache=False), url
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except Exception as error:  # each file system has errors of its own: unknown schemes, missing packages
        raise SpecError(f"{url!r} cannot be opened: {error}; use a path, or a URL that fsspec serves here") from error
    return found


class Store:
    """An output root. A reader of any name sees the old bytes or the new ones, never a part of either.

    Transient faults of an object store (500, 503, timeouts, lost connections) are retried by its own library. A lasting
    fault raises OSError with the name of the object.

    Args:
        url: a local path or any fsspec URL (`file://`, `memory://`, `s3://bucket/take` ...).
    """

    def __init__(self, url: str) -> None:
        # Without listings caches, so that writes of other processes are visible at once.
        self._fs: Any
        self._fs, self._root = located(url)
        self._is_local = isinstance(self._fs, LocalFileSystem)
        protocols = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        self._shows_unfinished = not _SHOWS_UNFINISHED.isdisjoint(protocols)
        self._refuses_second = any(protocol in _REFUSES_SECOND and _is_recent(protocol) for protocol in protocols)
        self._url = self._root if self._is_local else canonical(url)
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
        """Whether `put_if_absent` is exact here. Elsewhere it writes and reads back."""
        return self._refuses_second

    @contextmanager
    def guarded(self, may_write: Callable[[], None]) -> Iterator[None]:
        """While the block runs, every put and delete through this object first calls `may_write`, which may raise."""
        before, self._may_write = self._may_write, may_write
        try:
            yield
        finally:
            self._may_write = before

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Store `data` under `name`, atomically.

        Args:
            durable: whether the data must survive a power cut once this returns. False is faster.
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
        """Store `data` under `name` unless the name exists; whether `data` is stored there now.

        Of concurrent callers exactly one gets True. Without `can_put_if_absent` that is the last writer, provided that
        no caller takes `SETTLE_S` from looking for the name to the end of its put.

        Args:
            data: unique to the caller. If an answer is lost and the library retries, the bytes show whose object
                exists already.
        """
        path = self._path(name)
        try:
            with self._named(name, "put"):
                self._may_write()
                self._create(path, data)
        except OSError:
            if not self.exists(name):
                raise
        if not self._refuses_second:
            sleep(SETTLE_S)
        return self.get(name) == data

    def get(self, name: str) -> bytes:
        """The bytes under `name`; FileNotFoundError if there are none."""
        path = self._path(name)
        with self._named(name, "read"):
            data: bytes = self._fs.cat_file(path)
        return data

    def exists(self, name: str) -> bool:
        """Whether `name` exists."""
        path = self._path(name)
        with self._named(name, "looked for"):
            return bool(self._fs.exists(path))

    def version(self, name: str) -> str:
        """Changes whenever the bytes under `name` do; "" if there are none. Nothing is read."""
        if self._is_local:
            path = Path(self._path(name))
            return f"{path.stat().st_size} {path.stat().st_mtime_ns}" if path.exists() else ""
        path_there = self._path(name)
        with self._named(name, "looked for"):
            return str(self._fs.checksum(path_there)) if self._fs.exists(path_there) else ""

    def list(self, folder: str = "") -> dict[str, int]:
        """All names below `folder`, or all names: sizes in bytes by name, in order."""
        path = self._path(folder) if folder else self._root
        with self._named(folder, "listed"):
            found = self._fs.find(path, detail=True)
        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: int(found[path]["size"]) for path in sorted(found)}

    def delete(self, name: str) -> None:
        """Delete `name`, if it exists."""
        path = self._path(name)
        with self._named(name, "deleted"):
            self._may_write()
            if self._fs.exists(path):
                self._fs.rm_file(path)

    def url_of(self, name: str) -> str:
        """The location of `name`: an absolute path on this machine, or a URL."""
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
        """Write `data` to a new path; an OSError if it exists."""
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
        """Turn any error of a store's library into an OSError that names the object."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, LongtakeError):
            raise
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__ == "builtins":
                raise  # a bug, not a fault of the store
            where = f"{str(self._url).rstrip('/')}/{name}"
            number = getattr(error, "errno", None) or errno.EIO
            raise OSError(number, f"{where} could not be {act}: {error}") from error


def _is_recent(protocol: str) -> bool:
    """Whether what serves this protocol can ask for a put that fails if the name exists."""
    if protocol not in _SERVED_BY:
        return True
    package, first = _SERVED_BY[protocol]
    try:
        year, month, *_ = version(package).split(".")
    except PackageNotFoundError:
        return False
    return (int(year), int(month)) >= first


def _check(name: str) -> None:
    if not stays_below(name):
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
        fsync(path.parent)  # the new name must survive a power cut, too


def _create_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(_beside(str(path)))
    try:
        unfinished.write_bytes(data)
        fsync(unfinished)
        path.hardlink_to(unfinished)  # fails if the name exists; only complete files are visible
    finally:
        unfinished.unlink(missing_ok=True)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut. Some network file systems cannot for folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
