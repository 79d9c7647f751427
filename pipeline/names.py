"""Names of files that come from elsewhere: listings, indexes, manifests. None may lead out of its root."""

from pathlib import PurePosixPath


def stays_below(name: str) -> bool:
    """Whether `name` is plain parts joined by '/', so that it lies below any root to which it is appended."""
    parts = name.split("/")
    return "\\" not in name and "\0" not in name and not any(part in ("", ".", "..") for part in parts)


def is_plain(name: str) -> bool:
    """Whether `name` is the name of one file or folder, without the path to it."""
    return stays_below(name) and PurePosixPath(name).name == name
