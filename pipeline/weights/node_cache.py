"""Basics of the node's cache: locks, atomic writes and cached checksums."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from longtake.pipeline.errors import WeightsError


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock at `file`; waits while another process of this node holds it. The kernel frees it on exit."""
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise WeightsError(
            f"the cache {file.parent} cannot be written: {error}; set LONGTAKE_CACHE to a writable folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def write_whole(file: Path, text: str) -> None:
    """Write a small file atomically: a reader sees either the old text or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def read_record(file: Path) -> dict[str, Any]:
    """A record that `write_whole` wrote; empty if it is missing or unreadable."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def stamp(file: Path) -> dict[str, int]:
    """Size and modification time of a file."""
    stat = file.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def sha256_of(file: Path, cache: Path) -> str:
    """SHA-256 of a file, cached until its path, size or time changes.

    Of concurrent callers on one node, one reads the file and the others wait.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        file = file.resolve(strict=True)
        record_file, now = _record_of(file, cache), stamp(file)
        record = read_record(record_file)
        if not _holds(record, now):
            with locked(record_file.with_suffix(".lock")):
                record = read_record(record_file)
                if not _holds(record, now):
                    record = {"path": str(file), **now, "sha256": _digest(file)}
                    write_whole(record_file, json.dumps(record))
    except OSError as error:
        raise WeightsError(f"the weights {file} cannot be read: {error}") from error
    return str(record["sha256"])


def is_damaged_blob(file: Path, cache: Path) -> bool:
    """Whether a file in Hugging Face's cache, which names large files by checksum, does not match its name."""
    blob = file.resolve()
    return re.fullmatch(r"[0-9a-f]{64}", blob.name) is not None and sha256_of(blob, cache) != blob.name


def remember_sha256(file: Path, cache: Path, checksum: str) -> None:
    """Cache the checksum of a file that was hashed while it was written."""
    file = file.resolve()
    write_whole(_record_of(file, cache), json.dumps({"path": str(file), **stamp(file), "sha256": checksum}))


def fingerprint_of(files: Iterable[Path], root: Path, cache: Path) -> str:
    """SHA-256 over the names and checksums of `files` below `root`; equal on all machines."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(root).as_posix()} {sha256_of(file, cache)}\n".encode())
    return digest.hexdigest()


def _record_of(file: Path, cache: Path) -> Path:
    return cache / "checksums" / f"{hashlib.sha256(str(file).encode()).hexdigest()[:32]}.json"


def _holds(record: dict[str, Any], now: dict[str, int]) -> bool:
    return "sha256" in record and now == {key: record.get(key) for key in now}


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
