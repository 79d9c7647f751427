"""The output root: that it takes and gives back, and that an hour of film has room."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec

from longtake.jobs.doctor.finding import Finding, gib
from longtake.pipeline.journal.store import Store


@dataclass(frozen=True)
class HourOfFilm:
    """Bytes that an output root needs for an hour of film, so that a full disk is seen before it is full.

    Args:
        bits_per_pixel: of H.264 at our quality: 0.3 holds most pictures, noise takes 7 (measured at 64x64).
    """

    width: int
    height: int
    fps: int
    sample_rate: int
    channels: int
    bits_per_pixel: float

    def __str__(self) -> str:
        return f"an hour at {self.width}x{self.height} and {self.fps} fps"

    @property
    def num_bytes(self) -> int:
        """Packets four times (journal, playlist, film, the film being put together), float32 PCM once."""
        video = self.width * self.height * self.fps * self.bits_per_pixel / 8
        return int(3600 * (4 * video + 4 * self.sample_rate * self.channels))


SMALL_HOUR = HourOfFilm(64, 64, 16, 16_000, 1, bits_per_pixel=7)
LARGE_HOUR = HourOfFilm(1280, 720, 24, 48_000, 2, bits_per_pixel=0.3)


def check_output(output: str) -> Iterator[Finding]:
    """A probe is put into the output root, read back and removed, with every folder that it needed."""
    served = f"fsspec serves {', '.join(_protocols())} here"
    try:
        store = Store(output)
    except (ImportError, ValueError) as error:
        cure = f"{served}; install the package of others into .venv, such as s3fs or gcsfs"
        yield Finding("output", "FAIL", f"{output}: {error}", cure)
        return
    name = f".doctor-{os.getpid()}"
    new_folders = _missing_folders(Path(store.url)) if store.is_local else []
    try:
        _probe(store, name)
    except Exception as error:  # noqa: BLE001  every backend has errors of its own: credentials, buckets, networks
        cure = "use another -o, or cure this one: its permissions (chmod), its free space, its credentials"
        yield Finding("output", "FAIL", f"{store.url_of(name)}: {type(error).__name__}: {error}", cure)
    else:
        yield Finding("output", "ok", f"{store.url} takes, gives back and removes; {served}")
    finally:
        for folder in new_folders:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def check_disk(output: str) -> Iterator[Finding]:
    """Free disk against an hour of film: where it is put, or, for a remote output, where it is put together."""
    try:
        store = Store(output)
    except (ImportError, ValueError):
        return
    folder = Path(store.url) if store.is_local else Path(tempfile.gettempdir())
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    seen = (
        f"{gib(free)} free in {folder}; {SMALL_HOUR} takes up to {gib(SMALL_HOUR.num_bytes)},"
        f" {LARGE_HOUR} about {gib(LARGE_HOUR.num_bytes)}"
    )
    cure = "free some, use another -o, or render shorter films (half the length, half the disk)"
    if free < SMALL_HOUR.num_bytes:
        yield Finding("disk", "FAIL", seen, cure)
    elif free < LARGE_HOUR.num_bytes:
        yield Finding("disk", "warn", seen, cure)
    else:
        yield Finding("disk", "ok", seen)


def _probe(store: Store, name: str) -> None:
    probe = os.urandom(32)
    store.put(name, probe)
    read = store.get(name)
    files, path = fsspec.core.url_to_fs(store.url_of(name))
    files.rm(path)
    if read != probe:
        raise OSError(f"{len(probe)} bytes read back differently")


def _protocols() -> list[str]:
    """Of the usual protocols, those whose package is installed."""
    served = []
    for protocol in ("file", "memory", "http", "s3", "gs", "abfs", "sftp"):
        try:
            fsspec.get_filesystem_class(protocol)
        except (ImportError, ValueError):
            continue
        served.append(protocol)
    return served


def _missing_folders(folder: Path) -> list[Path]:
    """`folder` and its parents that do not exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]
