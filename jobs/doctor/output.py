"""The checks of the output root: it stores and returns bytes, and has space for an hour of film."""

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
    """The bytes that an output root needs for an hour of film.

    Args:
        bits_per_pixel: of H.264 at our quality: 0.3 is enough for most films, noise needs 7 (measured at 64x64).
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
        """Packets are stored four times (journal, playlist, film, the film while it is muxed), float32 PCM once."""
        video = self.width * self.height * self.fps * self.bits_per_pixel / 8
        return int(3600 * (4 * video + 4 * self.sample_rate * self.channels))


SMALL_HOUR = HourOfFilm(64, 64, 16, 16_000, 1, bits_per_pixel=7)
LARGE_HOUR = HourOfFilm(1280, 720, 24, 48_000, 2, bits_per_pixel=0.3)


def check_output(output: str) -> Iterator[Finding]:
    """A probe can be written to the output root, read back and deleted; created folders are deleted too."""
    served = f"fsspec serves {', '.join(_protocols())} here"
    try:
        store = Store(output)
    except (ImportError, ValueError) as error:
        fix = f"{served}; for others, install their package into .venv, such as s3fs or gcsfs"
        yield Finding("output", "FAIL", f"{output}: {error}", fix)
        return
    name = f".doctor-{os.getpid()}"
    new_folders = _missing_folders(Path(store.url)) if store.is_local else []
    try:
        _probe(store, name)
    except Exception as error:  # noqa: BLE001  each backend raises its own errors: credentials, buckets, networks
        fix = "use another -o, or fix its permissions (chmod), free space or credentials"
        yield Finding("output", "FAIL", f"{store.url_of(name)}: {type(error).__name__}: {error}", fix)
    else:
        seen = f"{store.url} can be written, read and deleted from; {served}"
        if store.can_put_if_absent:
            yield Finding("output", "ok", seen)
        else:
            fix = "begin one render at a time there; folders, and S3, GCS and Azure by recent packages, decide exactly"
            yield Finding("output", "warn", f"{seen}; of renders that begin within seconds, one is stopped later", fix)
    finally:
        for folder in new_folders:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def check_disk(output: str) -> Iterator[Finding]:
    """The disk has space for an hour of film: that of the output, or the temporary one for a remote output."""
    try:
        store = Store(output)
    except (ImportError, ValueError):
        return
    folder = Path(store.url) if store.is_local else Path(tempfile.gettempdir())
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    seen = (
        f"{gib(free)} free in {folder}; {SMALL_HOUR} needs up to {gib(SMALL_HOUR.num_bytes)},"
        f" {LARGE_HOUR} about {gib(LARGE_HOUR.num_bytes)}"
    )
    fix = "free some space, use another -o, or render shorter films (half the length needs half the space)"
    if free < SMALL_HOUR.num_bytes:
        yield Finding("disk", "FAIL", seen, fix)
    elif free < LARGE_HOUR.num_bytes:
        yield Finding("disk", "warn", seen, fix)
    else:
        yield Finding("disk", "ok", seen)


def _probe(store: Store, name: str) -> None:
    probe = os.urandom(32)
    store.put(name, probe)
    read = store.get(name)
    files, path = fsspec.core.url_to_fs(store.url_of(name))
    files.rm(path)
    if read != probe:
        raise OSError(f"{len(probe)} bytes were read back differently")


def _protocols() -> list[str]:
    """The usual protocols whose package is installed."""
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
