"""Options that were passed by name."""

from collections.abc import Iterable

from longtake.pipeline.errors import SpecError


def check_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise `SpecError` for the first of `names` that is not `known`."""
    known = list(known)
    for name in names:
        if name not in known:
            raise SpecError(f"there is no option {name!r}; use {', '.join(known)}")
