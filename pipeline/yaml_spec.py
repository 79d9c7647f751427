"""Read a spec in YAML, apply `key=value` overrides, and check it. An error lists all mistakes, each with its fix.

The keys of a spec are those of a pydantic model, such as `longtake.pipeline.spec.Storyboard`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import fsspec
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from longtake.pipeline.errors import SpecError
from longtake.pipeline.names import check_place

SpecT = TypeVar("SpecT", bound=BaseModel)


class Spec(BaseModel):
    """A part of a file that people write: frozen, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# ------------------------------------------------------------------ single values


def whole(low: int, high: int, *, even: bool = False) -> BeforeValidator:
    """A whole number from `low` to `high`, both allowed."""

    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high or (even and value % 2):
            raise SpecError(f"use {'an even' if even else 'a whole'} number from {low} to {high}")
        return value

    return BeforeValidator(check)


def number(low: float, high: float) -> BeforeValidator:
    """A number from `low` to `high`, both allowed, as a float."""

    def check(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise SpecError(f"use a number from {low:g} to {high:g}")
        return float(value)

    return BeforeValidator(check)


def words(value: object) -> str:
    """Text with at least one word, stripped of spaces around it."""
    if not isinstance(value, str):
        raise SpecError("use text; put it in quotes if it looks like a number")
    if not value.strip():
        raise SpecError("write at least one word")
    return value.strip()


Words = Annotated[str, BeforeValidator(words)]
Place = Annotated[str, BeforeValidator(words), AfterValidator(check_place)]
"""A path or URL that a storyboard or manifest may name."""

# ------------------------------------------------------------------ reading

MOST_TEXT, MOST_NODES, MOST_LEVELS = 64_000_000, 5_000_000, 40
"""Bounds of a text: its characters, the values that it stands for, and how deep they are nested."""


def read_text(url: str, fix: str) -> str:
    """The text at any path or fsspec URL. Raises `SpecError`, which ends with `fix` if nothing is there."""
    try:
        with fsspec.open(url, "r", encoding="utf-8-sig") as file:
            text: str = file.read(MOST_TEXT + 1)
    except FileNotFoundError:
        if url.startswith(("http://", "https://")):
            raise SpecError(f"{url} cannot be read: its server has no such file, or does not answer") from None
        raise SpecError(f"{url} does not exist; {fix}") from None
    except Exception as error:  # every file system has errors of its own: credentials, buckets, networks
        raise SpecError(f"{url} cannot be read: {error}") from error
    if len(text) > MOST_TEXT:
        raise SpecError(f"{url} is longer than {MOST_TEXT / 1e6:.0f} million characters; name a storyboard or manifest")
    return text


def composed(text: str, kind: Any = yaml.SafeLoader) -> tuple[Any, yaml.Node | None]:
    """A loader of `text`, and the root that it composed; nothing is constructed yet.

    Args:
        kind: `SafeLoader`, or `CSafeLoader`, which dies of nesting that is too deep.

    Raises:
        SpecError: the text is small and what it stands for is not: aliases of aliases, or deep nesting.
        yaml.YAMLError, ValueError: it is not valid.
    """
    depth = 0
    for event in yaml.parse(text, kind):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_LEVELS:
            raise SpecError(f"its values are nested more than {MOST_LEVELS} levels deep; write them flat")
    loader = kind(text)
    root = loader.get_single_node()
    if root is not None and _expanded_size(root, {}) > MOST_NODES:
        raise SpecError(f"it stands for more than {MOST_NODES:,} values, counting its aliases (*); write them out")
    return loader, root


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of nodes below `node`, with every alias expanded, except for one of a node that contains it."""
    if id(node) not in sizes:
        sizes[id(node)] = 1
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        below = parts if isinstance(node, yaml.CollectionNode) else ()
        sizes[id(node)] = 1 + sum(_expanded_size(part, sizes) for part in below)
    return sizes[id(node)]


def parse_yaml_spec(
    kind: type[SpecT], text: str, overrides: Sequence[str], source: str, to_message: Callable[[ErrorDetails], str]
) -> SpecT:
    """Check the YAML in `text`, which must make a `kind`.

    Args:
        overrides: `key=value` each, such as `sampling.steps=4` or `scenes[0].duration=5s`; values are YAML.
        source: the name of the text in error messages.
        to_message: turns a finding of pydantic into a message; see `message_of`.

    Raises:
        SpecError: with one line for each mistake.
    """
    spec, mistakes = _read_yaml(text, source)
    if not isinstance(spec, dict):
        needed = ", ".join(name for name, field in kind.model_fields.items() if field.is_required())
        raise SpecError(f"{source} holds no keys; it needs {needed}")
    for override in overrides:
        try:
            _apply(spec, override)
        except SpecError as error:
            mistakes.append(f"--set {override}: {error}")
    checked = None
    try:
        checked = kind.model_validate(spec)
    except ValidationError as error:
        mistakes += [to_message(details) for details in error.errors(include_url=False)]
    if checked is None or mistakes:
        raise SpecError("\n".join(f"{source}: {mistake}" for mistake in mistakes))
    return checked


def _read_yaml(text: str, source: str) -> tuple[Any, list[str]]:
    try:
        loader, root = composed(text)
        mistakes = list(duplicates(root, "", set()))
        spec = loader.construct_document(root) if root is not None else None
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{source} is not valid YAML: {yaml_problem(error)}") from None
    return spec, mistakes


def yaml_problem(error: Exception) -> str:
    """What is wrong with a text, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def duplicates(node: yaml.Node | None, key: str, seen: set[int]) -> Iterator[str]:
    """Mistakes below `key`: keys that appear twice in one mapping, of which YAML itself would silently keep the last.

    Args:
        seen: identities of the nodes that were checked, since there may be many aliases of one.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from duplicates(item, f"{key}[{index}]", seen)
    elif isinstance(node, yaml.MappingNode):
        first_line: dict[str, int] = {}
        for name, value in node.value:
            below, line = f"{key}.{name.value}".lstrip("."), name.start_mark.line + 1
            if below in first_line:
                first = first_line[below]
                lines = f"line {line}" if first == line else f"lines {first} and {line}"
                yield f"{below} is given twice, in {lines}; keep one"
            first_line.setdefault(below, line)
            yield from duplicates(value, below, seen)


def _apply(spec: Any, override: str) -> None:
    key, equals, value = override.partition("=")
    if not key or not equals:
        raise SpecError("write key=value, such as sampling.steps=4")
    try:
        wanted = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        raise SpecError(f"{value!r} is not valid YAML; put it in quotes") from None
    *parents, last = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    node = spec
    for part in parents:
        slot = _slot(node, part)
        if isinstance(node, dict) and node.get(slot) is None:
            node[slot] = {}
        node = node[slot]
    node[_slot(node, last)] = wanted


def _slot(node: Any, part: str) -> str | int:
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise SpecError(f"there is nothing below {node!r} for {part!r} to name")
    if not part.isdecimal() or int(part) >= len(node):
        raise SpecError(f"{part!r} is not one of {len(node)} items; use 0 to {len(node) - 1}")
    return int(part)


# ------------------------------------------------------------------ pydantic's findings as messages

_FIXES = {
    "bool_type": "use true or false",
    "bool_parsing": "use true or false",
    "literal_error": "use {expected}",
    "model_type": "use a mapping of keys",
    "dict_type": "use a mapping of keys",
    "tuple_type": "use a list",
}


def message_of(error: ErrorDetails, nearest_key: Callable[[tuple[str | int, ...]], str]) -> str:
    """A message for a finding of pydantic. `nearest_key` suggests what an unknown key may have meant."""
    key = dotted(error["loc"])
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return f"{key} ({_shown(error['input'])}) is not a known key; {nearest_key(error['loc'])}"
        case "invalid_key":
            return f"{error['input']!r} is not a key; keys are words"
        case "missing":
            return f"{key} is missing; add it"
        case "value_error":
            fix = str(context["error"])
        case kind:
            fix = _FIXES.get(kind, error["msg"]).format_map(context)
    return f"{key} is {_shown(error['input'])}; {fix}" if key else fix


def dotted(loc: tuple[str | int, ...]) -> str:
    """The location of a key as people write it, such as `scenes[0].duration`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _shown(value: object) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
