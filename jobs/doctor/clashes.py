"""Folders and modules that Python would import in place of longtake."""

import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import longtake
from longtake.jobs.doctor.finding import Finding


def check_working_folder(folder: Path) -> Iterator[Finding]:
    """The working folder holds no other `longtake`: `python -m` and the workers of Ray search it first.

    A folder without `__init__.py` counts too if longtake is installed as editable, since Python's search of folders
    comes before that of editable installs.
    """
    spec = PathFinder.find_spec("longtake", [str(folder), *sys.path])
    places = [] if spec is None else [*(spec.submodule_search_locations or (str(spec.origin),))]
    ours = {Path(place).resolve() for place in longtake.__path__}
    if places and Path(places[0]).resolve() not in ours:
        seen = (
            f"{places[0]} hides the installed longtake ({longtake.__path__[0]}) from `python -m` and from Ray's workers"
        )
        yield Finding("working folder", "FAIL", seen, f"rename {places[0]}, or run longtake in another folder")
    else:
        yield Finding("working folder", "ok", f"nothing in {folder} hides longtake")
