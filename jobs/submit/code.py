"""The code that a job brings along: the package `longtake`, as this process imports it."""

from pathlib import Path

import longtake.actors
import longtake.jobs
import longtake.pipeline

EXCLUDES = ("__pycache__", ".*_cache")
"""What Ray leaves behind when it uploads the package, in the syntax of .gitignore."""


def gather_code(folder: Path) -> Path:
    """A complete package `longtake` in `folder`, made of links to where this process imports its parts from."""
    code = folder / "longtake"
    code.mkdir()
    for file in Path(longtake.__path__[0]).iterdir():
        if file.name != "__pycache__":
            (code / file.name).symlink_to(file)
    for package in (longtake.actors, longtake.jobs, longtake.pipeline):
        target = code / package.__name__.rpartition(".")[2]
        if not target.exists():
            target.symlink_to(package.__path__[0])
    return code
