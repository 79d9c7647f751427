"""Where upscaled footage goes: one file that appears when it is whole, with its journal in a folder beside it.

film.mp4                          the output, replaced as a whole
film.mp4.longtake/journal/        the plan, cuts, finished segments; see `pipeline/journal/footage_segments.py`
film.mp4.longtake/journal/output.json    which output was written last: the sign that it is ours to replace
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
from pydantic import BaseModel, ValidationError

from longtake.pipeline.errors import SpecError
from longtake.pipeline.footage.codecs import FootageEncoding
from longtake.pipeline.footage.encode import FootageSegment
from longtake.pipeline.footage.mux import write_footage
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.store import Store, fsync

SCRATCH = "journal/scratch"

_CARD = "journal/output.json"


@dataclass(frozen=True)
class Written:
    """An output that is whole.

    Args:
        warnings: what of the footage the container could not hold.
        is_new: whether it was written just now, or found as it should be.
    """

    url: str
    bytes: int
    warnings: tuple[str, ...] = ()
    is_new: bool = True


@dataclass(frozen=True)
class OutputContent:
    """What an output is written from: `segments`, in order, hold `frames` of the footage."""

    footage: Footage
    frames: range
    segments: Iterable[FootageSegment]
    encoding: FootageEncoding


class _Card(BaseModel):
    """What was written last: the key of all that decided it, its size, what it lacks."""

    key: str
    bytes: int
    warnings: tuple[str, ...]


class Output:
    """The output file and the store of its journal.

    Args:
        url: a path or any fsspec URL; its suffix names the container.

    Raises:
        SpecError: it names no file.
    """

    def __init__(self, url: str) -> None:
        self._files: Any
        self._files, self._path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        folder, _, self._name = self._path.rpartition("/")
        if not PurePosixPath(self._name).suffix or self._files.isdir(self._path):
            raise SpecError(f"-o is {url}, which names no file; use a path such as out/film.mp4")
        self.journal = Store(f"{url}.longtake")
        self.is_local = self.journal.is_local
        self.url = self._path if self.is_local else url
        self._folder = folder

    def is_at(self, url: str) -> bool:
        """Whether the output would replace what lies at `url`."""
        files, path = fsspec.core.url_to_fs(url)
        return type(files) is type(self._files) and path == self._path

    def check_ours(self) -> None:
        """Raise `SpecError` if something stands there that was not written from this journal."""
        if self._card() is None and self._files.exists(self._path):
            raise SpecError(
                f"{self.url} is there already and was not upscaled to; use another -o, it is not overwritten"
            )

    def written(self, key: str) -> Written | None:
        """The output as it stands, if it was made by `key` and has the size that it was given; None otherwise."""
        card = self._card()
        if card is None or card.key != key or not self._files.exists(self._path):
            return None
        if self._files.size(self._path) != card.bytes:
            return None
        return Written(self.url, card.bytes, card.warnings, is_new=False)

    def forget(self) -> None:
        """Have the output written anew, whatever it was made by; it stays ours to replace."""
        if self._card() is not None:
            self._put_card("", 0, ())

    def write(self, film: OutputContent, key: str) -> Written:
        """Write the output and put it in its place, whole. Raises `MediaError` if it cannot be written."""
        with self._scratch() as path:
            warnings = write_footage(film.footage, film.segments, film.encoding, path, film.frames)
            size = path.stat().st_size
            # Before the file is in its place, so that one that is ours never looks foreign.
            self._put_card(key, size, warnings)
            self._publish(path)
        return Written(self.url, size, warnings)

    def kept_bytes(self) -> int:
        """Bytes of the segments that are there, of whatever plan."""
        return sum(self.journal.list("journal/segments").values())

    def free_bytes(self) -> int | None:
        """Room on the disk that the output and its journal go to; None where nobody can say."""
        if not self.is_local:
            return None
        folder = Path(self._folder)
        return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free

    def _card(self) -> _Card | None:
        try:
            return _Card.model_validate_json(self.journal.get(_CARD))
        except (FileNotFoundError, ValidationError):
            return None

    def _put_card(self, key: str, size: int, warnings: tuple[str, ...]) -> None:
        self.journal.put(_CARD, _Card(key=key, bytes=size, warnings=warnings).model_dump_json().encode())

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A path on the output's own disk, or on this machine's for an output elsewhere; nothing stays there."""
        name = f"{token_hex(8)}{PurePosixPath(self._name).suffix}"
        if not self.is_local:
            with TemporaryDirectory(prefix="longtake-") as folder:
                yield Path(folder) / name
            return
        path = Path(self.journal.url_of(f"{SCRATCH}/{name}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _publish(self, path: Path) -> None:
        if not self.is_local:
            Store(f"{self.journal.url.rpartition('/')[0]}").put_file(self._name, path)
            return
        fsync(path)
        path.replace(self._path)
        fsync(Path(self._folder))
