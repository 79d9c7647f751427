"""Output roots that users name: what can be known about them before anything is written or read."""

import tempfile
from pathlib import Path
from secrets import token_hex

from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store, located
from longtake.pipeline.journal.take import NAME as TAKE

FILM_SUFFIXES = (".mp4", ".mov", ".mkv", ".m4v", ".webm", ".avi")


def output_root(url: str) -> Store:
    """The output root that a film is to be written to. Nothing is left in it.

    Raises:
        SpecError: it cannot be written to, or is named like a film.
    """
    check_spelling(url)
    store = Store(url)
    if not store.is_local:
        _check_remote(store)
        return store
    root = Path(store.url)
    if root.suffix.lower() in FILM_SUFFIXES and not root.is_dir():
        raise SpecError(
            f"-o is {url}, but it names a folder, for the film and its journal; use -o {url.removesuffix(root.suffix)}"
            f" --set output.film={root.name}"
        )
    check_folder(root, url)
    return store


def take_root(url: str, *, may_come: bool = False) -> Store:
    """The output root of a take that is looked at.

    Args:
        may_come: whether it may be empty or missing, because a render into it has yet to begin.

    Raises:
        SpecError: it cannot be read, or holds no take.
    """
    store = Store(url)
    if store.is_local and Path(store.url).is_file():
        folder = Path(store.url).parent
        fix = f"use {folder}" if has_take(Store(str(folder))) else "use the folder that a render wrote to"
        raise SpecError(f"{url} is a file, not the output folder of a render; {fix}")
    try:
        is_there = has_take(store)
    except Exception as error:  # every file system has errors of its own
        raise SpecError(f"{url} cannot be read: {error}; check the address, the credentials and the network") from error
    if not is_there and not may_come:
        raise SpecError(f"{store.url} holds no take; render one with longtake render STORYBOARD -o {url}")
    return store


def check_input(url: str) -> None:
    """Raise `SpecError` if `url`, a film that is to be read, is missing, empty, or a folder."""
    try:
        files, path = located(url)
        info = files.info(path)
    except FileNotFoundError:
        raise SpecError(f"{url} does not exist; name a film") from None
    except SpecError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise SpecError(f"{url} cannot be read: {error}; name a film, as a path or a URL that fsspec serves") from error
    check_no_stream(url)
    if info["type"] != "file" or info["size"] == 0:
        what = "empty" if info["type"] == "file" else "a folder"
        raise SpecError(f"{url} is {what}; name a film")


def check_no_stream(url: str) -> None:
    """Raise `SpecError` if `url` is a pipe, a socket or a device of this machine."""
    path = Path(url.removeprefix("file://")).expanduser()
    if path.exists() and not path.is_file() and not path.is_dir():
        raise SpecError(f"{url} is a pipe or a device, which can be read only once; write it to a file first")


def check_spelling(url: str) -> None:
    """Raise `SpecError` for an empty URL, and for the value of `-o=URL`, which a command line reads as `=URL`."""
    if not url.strip():
        raise SpecError("-o is empty; name a folder, which is created if it does not exist, or . for this one")
    if url.startswith("="):
        raise SpecError(f"-o is {url}; write -o {url[1:]}, with a space, or --output={url[1:]}")


def has_take(store: Store) -> bool:
    """Whether an output root holds a take."""
    return store.exists(TAKE)


def check_folder(root: Path, url: str) -> None:
    """Raise `SpecError` if a folder cannot be created or written to.

    Args:
        url: what the user wrote: the folder, or a file in it.
    """
    there = next(path for path in (root, *root.parents) if path.exists())
    if not there.is_dir():
        what = "a file" if there.name == Path(url).name else f"below {there}, which is a file"
        raise SpecError(f"-o is {url}, {what}; name a folder, which is created if it does not exist")
    try:
        with tempfile.TemporaryDirectory(prefix=".longtake-", dir=there):
            pass
    except OSError as error:
        raise SpecError(
            f"-o is {url}, which cannot be written: {error.strerror}; use another folder, or change its permissions"
        ) from error


def _check_remote(store: Store) -> None:
    name = f"journal/probe-{token_hex(8)}"
    try:
        store.put(name, b"")
        store.delete(name)
    except Exception as error:  # every file system has errors of its own: credentials, buckets, networks
        raise SpecError(
            f"-o is {store.url}, which cannot be written: {error}; check the address, the credentials and the network"
        ) from error
