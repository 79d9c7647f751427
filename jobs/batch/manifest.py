"""The manifest of a batch: its takes, read and checked whole before anything starts.

The result is either frozen takes or a single `SpecError` with one line for each mistake: where it is, the key, its
value, what is wrong, and the fix.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from math import inf
from pathlib import PurePosixPath
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from longtake.jobs.manifest_rows import READ_FIX, Row, read_rows
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.root import check_spelling
from longtake.pipeline.journal.store import Store, resolved
from longtake.pipeline.names import check_place, scheme_of
from longtake.pipeline.spec import Storyboard, located, parse_storyboard
from longtake.pipeline.yaml_spec import Place, message_of, read_text, whole, words

LEDGER = "batch"
"""The folder of the output root that belongs to the batch itself."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_MOST_MISTAKES = 100
_READERS = 16


@dataclass(frozen=True)
class TakeSpec:
    """One take of a batch.

    Args:
        output: where the film is written: an absolute path or a URL.
        priority: takes of a higher priority start first.
        project: takes of equal priority are scheduled round-robin by project.
        ranks: how many ranks denoise it together; None: the batch's default.
    """

    id: str
    storyboard: Storyboard
    output: str
    priority: int = 0
    project: str = ""
    tags: tuple[str, ...] = ()
    ranks: int | None = None

    @cached_property
    def film_s(self) -> float:
        """The length of the film in seconds."""
        return float(sum(self.storyboard.durations_s()))

    @property
    def film(self) -> str:
        """The name of the film below `output`."""
        return self.storyboard.output.film


def read_manifest(url: str, root: str, overrides: tuple[str, ...] = ()) -> tuple[TakeSpec, ...]:
    """The takes of the manifest at `url` for the output root `root`, in the manifest's order.

    Args:
        overrides: for all takes, such as "sampling.steps=4"; overrides of a single take take precedence.

    Raises:
        SpecError: with one line for every mistake.
    """
    rows = read_rows(url)
    reader = _Reader(url, _store(root), _storyboards(url, rows), overrides)
    takes = [take for number, row in enumerate(rows, start=1) if (take := reader.take(number, row)) is not None]
    mistakes = reader.mistakes + list(_shared(takes))
    if mistakes:
        shown = [f"{url}, {mistake}" for mistake in mistakes[:_MOST_MISTAKES]]
        more = [f"and {len(mistakes) - _MOST_MISTAKES} more"] if len(mistakes) > _MOST_MISTAKES else []
        raise SpecError("\n".join(shown + more))
    return tuple(take for _, take in takes)


# ------------------------------------------------------------------ single values


def _project(value: object) -> str:
    return "" if value == "" else words(value)


def _id(value: object) -> str:
    text = words(value)
    if not _NAME.fullmatch(text):
        raise SpecError("use 1 to 100 letters, digits, '.', '_' or '-', a letter or digit first")
    if text == LEDGER:
        raise SpecError(f"{LEDGER}/ holds the ledger; use another name")
    return text


def _storyboard(value: object) -> str | dict[str, Any]:
    if isinstance(value, str) and value.strip():
        return check_place(value.strip())
    if isinstance(value, dict) and value:
        return value
    raise SpecError("use the path or URL of a storyboard, or its keys")


def _overrides(value: object) -> tuple[str, ...]:
    if isinstance(value, dict):
        return tuple(f"{key}={_one_line(wanted)}" for key, wanted in value.items())
    if isinstance(value, list) and all(isinstance(item, str) and "=" in item for item in value):
        return tuple(value)
    raise SpecError("use a mapping such as {sampling.steps: 4}, or a list such as [sampling.steps=4]")


def _one_line(value: object) -> str:
    try:
        return yaml.safe_dump([value], default_flow_style=True, width=inf, allow_unicode=True).strip()[1:-1]
    except yaml.YAMLError:
        raise SpecError("use plain values: text, numbers, lists, mappings") from None


def _tags(value: object) -> tuple[str, ...]:
    if isinstance(value, dict):
        return tuple(f"{key}={wanted}" for key, wanted in value.items())
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise SpecError("use a list such as [draft, night], or a mapping such as {client: acme}")


# ------------------------------------------------------------------ a take as written


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    storyboard: Annotated[str | dict[str, Any], BeforeValidator(_storyboard)]
    id: Annotated[str | None, BeforeValidator(_id)] = None
    output: Place | None = None
    priority: Annotated[int, whole(-1_000_000, 1_000_000)] = 0
    project: Annotated[str, BeforeValidator(_project)] = ""
    tags: Annotated[tuple[str, ...], BeforeValidator(_tags)] = ()
    overrides: Annotated[tuple[str, ...], BeforeValidator(_overrides)] = ()
    ranks: Annotated[int | None, whole(1, 1024)] = None


class _Reader:
    """Turns rows into takes, and collects all mistakes."""

    def __init__(
        self, url: str, root: Store, storyboards: Mapping[str, str | SpecError], overrides: tuple[str, ...]
    ) -> None:
        self._url, self._root, self._storyboards, self._overrides = url, root, storyboards, overrides
        self.mistakes: list[str] = []

    def take(self, number: int, row: Row) -> tuple[str, TakeSpec] | None:
        """The take, with its place in the manifest in words; None if it has a mistake."""
        named = row.values.get("id") if isinstance(row.values, dict) else None
        where = f"line {row.line}, take {number}" + (f" ({named})" if named is not None else "")
        try:
            if row.mistakes:
                raise SpecError("\n".join(row.mistakes))
            return where, self._resolved(_entry(row.values))
        except SpecError as error:
            self.mistakes += [f"{where}: {mistake}" for mistake in str(error).splitlines()]
            return None

    def _resolved(self, entry: _Entry) -> TakeSpec:
        mistakes = []
        try:
            name, output = self._placed(entry)
        except SpecError as error:
            mistakes.append(str(error))
        try:
            storyboard = self._read(entry)
        except SpecError as error:
            mistakes.append(str(error))
        if mistakes:
            raise SpecError("\n".join(mistakes))
        return TakeSpec(
            id=name,
            storyboard=storyboard,
            output=output,
            priority=entry.priority,
            project=entry.project,
            tags=entry.tags,
            ranks=entry.ranks,
        )

    def _placed(self, entry: _Entry) -> tuple[str, str]:
        name = entry.id or _default_id(entry)
        return name, self._output(entry.output or name)

    def _read(self, entry: _Entry) -> Storyboard:
        overrides = (*self._overrides, *entry.overrides)
        if isinstance(entry.storyboard, dict):
            return located(parse_storyboard(yaml.safe_dump(entry.storyboard), overrides), self._url)
        text = self._storyboards[entry.storyboard]
        if isinstance(text, SpecError):
            raise SpecError(f"storyboard is {entry.storyboard!r}; {text}")
        storyboard = parse_storyboard(text, overrides, source=entry.storyboard)
        return located(storyboard, _located(self._url, entry.storyboard))

    def _output(self, output: str) -> str:
        try:
            if _is_absolute(output):
                return Store(output).url
            name = posixpath.normpath(output)
            if name.split("/", maxsplit=1)[0] == LEDGER:
                raise SpecError(f"{LEDGER}/ holds the ledger")
            return self._root.url_of(name)
        except (OSError, ValueError, ImportError) as error:
            raise SpecError(f"output is {output!r}; {error}") from None


def _entry(values: object) -> _Entry:
    if not isinstance(values, dict):
        raise SpecError(f"it is {values!r}; write keys, such as `storyboard: film.yaml`")
    try:
        return _Entry.model_validate(values)
    except ValidationError as error:
        mistakes = [message_of(details, _nearest_key) for details in error.errors(include_url=False)]
        raise SpecError("\n".join(mistakes)) from None


def _nearest_key(loc: tuple[str | int, ...]) -> str:
    near = get_close_matches(str(loc[-1]), _Entry.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(_Entry.model_fields)}"


def _default_id(entry: _Entry) -> str:
    if isinstance(entry.storyboard, dict):
        raise SpecError("id is missing; add one, since a storyboard without a file has no name")
    name = PurePosixPath(entry.storyboard).stem
    try:
        return _id(name)
    except SpecError as error:
        raise SpecError(f"id would be {name!r}, after the storyboard; {error}") from None


# ------------------------------------------------------------------ the takes together


def _shared(takes: Sequence[tuple[str, TakeSpec]]) -> Iterator[str]:
    """Ids and outputs that two takes share; ids are compared without case, which some file systems ignore."""
    names: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for where, take in takes:
        named, placed = names.setdefault(take.id.casefold(), where), outputs.setdefault(resolved(take.output), where)
        if named != where:
            yield f"{where}: id is {take.id!r}, as in {named}; give one of them another id"
        elif placed != where:
            yield f"{where}: output is {take.output!r}, as in {placed}; give one of them another output"


def _store(root: str) -> Store:
    check_spelling(root)
    try:
        return Store(root)
    except (OSError, ValueError, ImportError) as error:
        raise SpecError(f"-o is {root!r}; {error}") from error


def _located(manifest: str, name: str) -> str:
    """The URL of a storyboard that a manifest names."""
    return name if _is_absolute(name) else manifest[: manifest.rfind("/") + 1] + name


def _storyboards(manifest: str, rows: Sequence[Row]) -> Mapping[str, str | SpecError]:
    """The text of each storyboard that is a file, by its name in the manifest; each file is read once."""
    written = [row.values.get("storyboard") for row in rows if isinstance(row.values, dict)]
    names = list(dict.fromkeys(name.strip() for name in written if isinstance(name, str)))

    def text(name: str) -> str | SpecError:
        try:
            return read_text(_located(manifest, name), READ_FIX)
        except SpecError as error:
            return error

    with ThreadPoolExecutor(_READERS) as readers:
        return dict(zip(names, readers.map(text, names), strict=True))


def _is_absolute(url: str) -> bool:
    return url.startswith(("/", "~")) or bool(scheme_of(url))
