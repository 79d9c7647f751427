"""Where upscaled footage goes: one file, written once it is complete, and a folder next to it for the journal.

film.mp4                          the output, replaced atomically
film.mp4.longtake/journal/        plan, cuts and finished segments; see `pipeline/journal/footage_segments.py`
film.mp4.longtake/journal/output.json    describes the output that was written last, which may be replaced
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ValidationError

from longtake.pipeline.errors import SpecError
from longtake.pipeline.footage.codecs import FootageEncoding
from longtake.pipeline.footage.encode import FootageSegment
from longtake.pipeline.footage.mux import write_footage
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.root import check_spelling
from longtake.pipeline.journal.store import Store, canonical, fsync, located, resolved

SCRATCH = "journal/scratch"

_CARD = "journal/output.json"


@dataclass(frozen=True)
class Written:
    """A complete output.

    Args:
        warnings: what of the footage the container cannot hold.
        is_new: whether it was written just now. False: it existed already.
    """

    url: str
    bytes: int
    warnings: tuple[str, ...] = ()
    is_new: bool = True


@dataclass(frozen=True)
class OutputContent:
    """The content of an output: `segments`, in order, hold `frames` of the footage."""

    footage: Footage
    frames: range
    segments: Iterable[FootageSegment]
    encoding: FootageEncoding


class _Card(BaseModel):
    """The output that was written last: a hash of everything that decides it, its size, its warnings."""

    key: str
    bytes: int
    warnings: tuple[str, ...]


class Output:
    """The output file and the store of its journal.

    Args:
        url: a path or any fsspec URL; its suffix names the container.

    Raises:
        SpecError: `url` names no file.
    """

    def __init__(self, url: str) -> None:
        check_spelling(url)
        self.journal = Store(f"{canonical(url)}.longtake")
        self._files: Any
        self._files, self._path = located(url)
        folder, _, self._name = self._path.rpartition("/")
        if not PurePosixPath(self._name).suffix or self._files.isdir(self._path):
            raise SpecError(f"-o is {url}, which names no file; use a path such as out/film.mp4")
        self.is_local = self.journal.is_local
        self.url = self._path if self.is_local else canonical(url)
        self._folder = folder

    def is_at(self, url: str) -> bool:
        """Whether the output would replace the file at `url`."""
        return resolved(url) == resolved(self.url)

    def check_ours(self) -> None:
        """Raise `SpecError` if the output exists and was not written from this journal."""
        if self._card() is None and self._files.exists(self._path):
            raise SpecError(
                f"{self.url} exists and was not written by longtake; use another -o (nothing was overwritten)"
            )

    def written(self, key: str) -> Written | None:
        """The existing output, if it was made by `key` and has the size that was written; None otherwise."""
        card = self._card()
        if card is None or card.key != key or not self.is_finished():
            return None
        return Written(self.url, card.bytes, card.warnings, is_new=False)

    def is_finished(self) -> bool:
        """Whether the output exists as it was written, and was not forgotten."""
        card = self._card()
        if card is None or not card.key or not self._files.exists(self._path):
            return False
        return bool(self._files.size(self._path) == card.bytes)

    def forget(self) -> None:
        """Have the output written again, even by the same key. It may still be replaced."""
        if self._card() is not None:
            self._put_card("", 0, ())

    def write(self, film: OutputContent, key: str) -> Written:
        """Write the output atomically. Raises `MediaError` if it cannot be written."""
        return self.write_by(
            lambda path: write_footage(film.footage, film.segments, film.encoding, path, film.frames), key
        )

    def write_by(self, writer: Callable[[Path], tuple[str, ...]], key: str) -> Written:
        """Write the output atomically.

        Args:
            writer: writes a local file, and returns what it cannot hold, in words.
        """
        with self._scratch() as path:
            warnings = writer(path)
            size = path.stat().st_size
            # The card comes first, so that a file of ours never looks foreign.
            self._put_card(key, size, warnings)
            self._publish(path)
        return Written(self.url, size, warnings)

    def kept_bytes(self) -> int:
        """Bytes of all segments in the journal, of any plan."""
        return sum(self.journal.list("journal/segments").values())

    def free_bytes(self) -> int | None:
        """Free space on the disk of the output and its journal; None if it is unknown."""
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
        """A temporary path: on the disk of a local output, else on this machine."""
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
