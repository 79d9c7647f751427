"""The rows of a manifest in YAML, JSON Lines or CSV: the values as written, and their line."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import PurePosixPath
from typing import Any

import yaml

from longtake.pipeline.errors import SpecError
from longtake.pipeline.yaml_spec import composed, duplicates, read_text, yaml_problem

_YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, if libyaml is installed

READ_FIX = "write it, or name another file"
"""The fix for a manifest or storyboard that does not exist."""


@dataclass(frozen=True)
class Row:
    """One take as written.

    Args:
        line: its first line in the manifest, counted from 1.
        values: a mapping of keys, unless that is the mistake.
        mistakes: mistakes in the syntax, found before the keys are checked.
    """

    line: int
    values: Any
    mistakes: tuple[str, ...] = ()


def read_rows(url: str) -> list[Row]:
    """The rows of the manifest at any path or fsspec URL. Raises `SpecError` if there are none."""
    suffix = PurePosixPath(url).suffix.lower()
    if suffix not in _READERS:
        raise SpecError(f"{url} has an unknown file name extension; use {', '.join(_READERS)}")
    rows = list(_READERS[suffix](read_text(url, READ_FIX), url))
    if not rows:
        raise SpecError(f"{url} holds no takes; write at least one, with a `storyboard`")
    return rows


# ------------------------------------------------------------------ YAML


def _yaml_rows(text: str, url: str) -> Iterator[Row]:
    try:
        loader, root = composed(text, _YAML)
        takes = _takes(root)
        mistakes = [tuple(duplicates(node, "", set())) for node in takes]  # before `<<` is expanded
        for node, found in zip(takes, mistakes, strict=True):
            yield Row(node.start_mark.line + 1, loader.construct_document(node), found)
    except SpecError as error:
        raise SpecError(f"{url}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{url} is not valid YAML: {yaml_problem(error)}") from None


def _takes(root: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(root, yaml.MappingNode) and [key.value for key, _ in root.value] == ["takes"]:
        root = root.value[0][1]
    if not isinstance(root, yaml.SequenceNode):
        raise SpecError("it is not a list of takes; write `takes:` and one item for each, with a `storyboard`")
    return list(root.value)


# ------------------------------------------------------------------ JSON Lines


def _json_rows(text: str, _: str) -> Iterator[Row]:
    for line, written in enumerate(text.splitlines(), start=1):
        if not written.strip():
            continue
        try:
            yield Row(line, json.loads(written, object_pairs_hook=_once))
        except json.JSONDecodeError as error:
            yield Row(line, {}, (f"it is not valid JSON: {error.msg} in column {error.colno}",))
        except RecursionError:
            yield Row(line, {}, ("it is nested too deeply to be read; write its values flat",))
        except SpecError as error:
            yield Row(line, {}, (str(error),))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise SpecError(f"{next(name for name in names if names.count(name) > 1)} is given twice; keep one")
    return found


# ------------------------------------------------------------------ CSV

_LISTS = {"overrides", "tags"}
_NUMBERS = {"priority", "ranks"}


def _csv_rows(text: str, url: str) -> Iterator[Row]:
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    if reader.fieldnames is None:
        return
    names = [name.strip() for name in reader.fieldnames]
    if len(set(names)) < len(names):
        raise SpecError(f"{url} names a column twice in its first line ({', '.join(names)}); keep one")
    reader.fieldnames = names
    line = reader.line_num + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SpecError(f"{url}, line {reader.line_num} is not valid CSV: {error}") from None
        extra = cells.pop(None, None)
        mistakes = (f"it has cells after the last column: {extra}; remove them, or quote commas",) if extra else ()
        yield Row(line, {name: _cell(name, text.strip()) for name, text in _filled(cells)}, mistakes)
        line = reader.line_num + 1


def _filled(cells: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    """The cells that are not empty; an empty cell means the default."""
    return ((name, text) for name, text in cells.items() if text is not None and text.strip())


def _cell(name: str, text: str) -> object:
    if name in _LISTS:
        return [part.strip() for part in text.split(";") if part.strip()]
    if name in _NUMBERS and re.fullmatch(r"[+-]?\d{1,9}", text, re.ASCII):
        return int(text)
    return text


_READERS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".yaml": _yaml_rows,
    ".yml": _yaml_rows,
    ".jsonl": _json_rows,
    ".csv": _csv_rows,
}
