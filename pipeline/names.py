"""Names of files that come from elsewhere, in listings, indexes, manifests and storyboards: where they may lead."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from longtake.pipeline.errors import SpecError

REMOTE = frozenset({"http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf"})
"""URL schemes of stores that hold files and nothing else."""

_allowed = set(REMOTE | {"file", "memory"})


def stays_below(name: str) -> bool:
    """Whether `name` is plain parts joined by '/', so that it lies below any root to which it is appended."""
    parts = name.split("/")
    return "\\" not in name and "\0" not in name and not any(part in ("", ".", "..") for part in parts)


def is_plain(name: str) -> bool:
    """Whether `name` is the name of one file or folder, without the path to it."""
    return stays_below(name) and PurePosixPath(name).name == name


def scheme_of(url: str) -> str:
    """The scheme of a URL as fsspec reads it, in lower case; empty for a path."""
    match = re.match(r"([^/\\:]*):(//)?", url)
    if match is None or (match[2] is None and match[1].lower() not in ("file", "local", "data")):
        return ""
    return match[1].lower()


def is_relative(url: str) -> bool:
    """Whether `url` is a path relative to the file that names it."""
    return not scheme_of(url) and "::" not in url and not url.startswith(("/", "~"))


def allow_schemes(schemes: Iterable[str]) -> None:
    """Let storyboards and manifests name URLs of further schemes in this process."""
    _allowed.update(scheme.lower() for scheme in schemes)


def check_place(url: str) -> str:
    """`url`, a path or URL that a storyboard or manifest names. Raises `SpecError` for one that may read other files.

    fsspec has file systems that wrap others, run commands or read archives, and chains them with `::`; so the author of
    a storyboard would choose what this machine opens.
    """
    if "\0" in url:
        raise SpecError("use a path without zero bytes")
    if "::" in url:
        raise SpecError("use a plain path or URL: file systems that are chained by :: are not opened")
    scheme = scheme_of(url)
    if scheme and scheme not in _allowed:
        known = ", ".join(sorted(_allowed))
        raise SpecError(f"use a path, or a URL of {known}; --allow-scheme {scheme} permits {scheme} as well")
    return url


_SECRET = re.compile(r"(\b\w[\w+.-]*://[^\s/:@\"']*):[^\s/@\"']+@")


def redacted(text: str) -> str:
    """`text` with the passwords of its URLs as `***`: for messages, logs and events, which others read."""
    return _SECRET.sub(r"\1:***@", text)
