"""The folder for temporary files in which Ray on this machine keeps its sockets."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from longtake.pipeline.errors import SpecError

LONGEST_SOCKET = 107
"""Bytes of a socket's path that Linux takes."""

_SESSION = f"session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
_VARIABLES = ("RAY_TMPDIR", "TMPDIR")


def ray_folder() -> tuple[str, Path]:
    """The folder that a new cluster uses, and the environment variable that names it ("" for the default)."""
    variable = next((name for name in _VARIABLES if name in os.environ), "")
    return variable, Path(os.environ.get(variable, "/tmp"), "ray")


def check_ray_folder() -> None:
    """Raise `SpecError` if a new cluster on this machine could not put its sockets into its folder."""
    variable, folder = ray_folder()
    where = f"{variable} is {os.environ[variable]}" if variable else f"temporary files go to {folder.parent}"
    excess = len(os.fsencode(folder / _SESSION)) - LONGEST_SOCKET
    if excess > 0:
        raise SpecError(
            f"{where}, {excess} bytes too long for Ray's sockets, whose paths have at most {LONGEST_SOCKET}; set"
            " RAY_TMPDIR to a short folder, such as /tmp"
        )
    if why := not_writable(folder):
        raise SpecError(
            f"{where}, and Ray cannot write there: {why}; set RAY_TMPDIR to a short folder that can be written, such"
            " as /tmp"
        )


def not_writable(folder: Path) -> str | None:
    """Why a folder cannot be created or written to; None if it can. Nothing is left in it."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with TemporaryDirectory(prefix=".longtake-", dir=there):
            return None
    except OSError as error:
        return f"{there}: {error.strerror}"
