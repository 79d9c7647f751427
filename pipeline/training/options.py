"""Options of a training task, read into its dataclasses."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from longtake.pipeline.errors import SpecError


def read_options(options: Mapping[str, Any], *kinds: Any) -> tuple[Any, ...]:
    """Read the options of a configuration into dataclasses, one of each kind.

    Raises:
        SpecError: an option is unknown, or has the wrong type.
    """
    known = {field.name for kind in kinds for field in fields(kind)}
    if unknown := sorted(options.keys() - known):
        raise SpecError(f"options.{unknown[0]} is not an option of this stage; it has {', '.join(sorted(known))}")
    return tuple(_read(options, kind) for kind in kinds)


def _read(options: Mapping[str, Any], kind: Any) -> Any:
    names = {field.name for field in fields(kind)}
    try:
        return TypeAdapter(kind).validate_python({name: options[name] for name in names & options.keys()})
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"options.{first['loc'][0]} is {first['input']!r}; {first['msg'].lower()}") from error
