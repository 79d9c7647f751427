"""Models at URLs: downloaded once per node, verified and cached.

A cached copy belongs to one state of its source (names, sizes, ETags). A changed source is downloaded to a new place,
since other processes may have the old copy mapped. Each file is renamed into place once it is complete, so a killed
process leaves no partial file.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.names import stays_below
from longtake.pipeline.weights.folder import INDEX, PICKLES, needed, parse_index, refused
from longtake.pipeline.weights.node_cache import locked, read_record, remember_sha256, sha256_of, stamp, write_whole

BLOCK = 16 * 2**20
AT_ONCE = 4
"""Files downloaded in parallel."""

_TAGS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "LastModified", "last_modified", "mtime", "created")
"""Names under which file systems report a value that changes with the file."""


@dataclass(frozen=True)
class Source:
    """The files of a model at a URL: paths, sizes and change tags, by name relative to the URL."""

    url: str
    fs: Any
    paths: dict[str, str]
    sizes: dict[str, int]
    tags: dict[str, str]
    is_file: bool

    @property
    def name(self) -> str:
        """The last component of the URL."""
        return PurePosixPath(self.url.rstrip("/")).name or "model"

    @property
    def state(self) -> str:
        """A hash that identifies the source and its present content."""
        state = json.dumps([self.url, self.sizes, self.tags], sort_keys=True)
        return hashlib.sha256(state.encode()).hexdigest()[:16]


def fetch(url: str, cache: Path) -> Path:
    """Copy the folder or file at `url` to this node and return its path.

    Of concurrent callers on one node, one downloads and the others wait. A present copy is reused unless the source has
    changed or the copy is damaged.

    Raises:
        WeightsError: the URL does not exist, cannot be read, or is not a model.
    """
    source = find_source(url)
    place = cache / "urls" / f"{source.name}-{source.state}"
    entry = place / source.name  # keeps the source's name, which films state as their model
    with locked(place / "lock"), ThreadPoolExecutor(AT_ONCE) as pool:
        missing = [name for name in source.paths if not _is_whole(entry, name, cache)]
        for _ in pool.map(lambda name: _place(source, name, entry, cache), missing):
            pass
    return entry / source.name if source.is_file else entry


def find_source(url: str) -> Source:
    """List the model at `url`. Raises `WeightsError` if it is not a model."""
    try:
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        is_file = url.endswith(".safetensors")
        if url.endswith(PICKLES):
            raise refused(url)
        if is_file:
            found = {PurePosixPath(root).name: fs.info(root)}
        else:
            start = len(root.rstrip("/")) + 1
            found = {path[start:]: info for path, info in fs.find(root, detail=True).items()}
            if INDEX not in found:
                raise WeightsError(
                    f"{url} has no {INDEX}, or cannot be reached; use the URL of a model folder, or of a .safetensors"
                    " file that longtake wrote"
                )
            index = parse_index(fs.cat_file(found[INDEX]["name"]), f"{url.rstrip('/')}/{INDEX}")
            found = {name: found[name] for name in needed(found, index, url)}
            if outside := [name for name in found if not stays_below(name)]:
                raise WeightsError(
                    f"{url} lists {outside[0]!r}, which would be written outside of its copy here; use another source"
                )
        for name, info in found.items():
            if info.get("size") is None:  # an HTTP listing has only names
                found[name] = fs.info(info["name"])
    except WeightsError:
        raise
    except Exception as error:  # every file system has its own errors: credentials, buckets, networks
        raise WeightsError(f"the weights {url} cannot be read: {error}; check this machine's access to it") from error
    paths = {name: str(info["name"]) for name, info in found.items()}
    sizes = {name: int(info["size"]) for name, info in found.items()}
    tags = {name: str([info[tag] for tag in _TAGS if tag in info]) for name, info in found.items()}
    return Source(url, fs, paths, sizes, tags, is_file)


def _record(entry: Path, name: str) -> Path:
    return entry.parent / "fetched" / f"{name}.json"


def _is_whole(entry: Path, name: str, cache: Path) -> bool:
    """Whether a file is unchanged since the download; its content is hashed only if its time stamp changed."""
    file, kept = entry / name, read_record(_record(entry, name))
    if not kept or not file.is_file():
        return False
    now = stamp(file)
    if now["size"] != kept["size"]:
        return False
    return bool(now["mtime_ns"] == kept["mtime_ns"]) or sha256_of(file, cache) == kept["sha256"]


def _place(source: Source, name: str, entry: Path, cache: Path) -> None:
    """Download and hash one file, and record its size, time stamp and checksum."""
    file, digest, size = entry / name, hashlib.sha256(), 0
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with source.fs.open(source.paths[name], "rb") as opened, part.open("wb") as out:
            while size <= source.sizes[name] and (block := opened.read(BLOCK)):
                digest.update(block)
                size += out.write(block)
            out.flush()
            os.fsync(out.fileno())
    except Exception as error:  # as in `find_source`
        raise WeightsError(
            f"{name} of {source.url} cannot be downloaded to {entry}: {error}; run the same command again to continue"
        ) from error
    if size != source.sizes[name]:
        part.unlink()
        seen = (
            f"is longer than its {source.sizes[name]} bytes"
            if size > source.sizes[name]
            else (f"ended after {size} of {source.sizes[name]} bytes")
        )
        raise WeightsError(f"{name} of {source.url} {seen}; run the same command again")
    part.replace(file)
    remember_sha256(file, cache, digest.hexdigest())
    write_whole(_record(entry, name), json.dumps({**stamp(file), "sha256": digest.hexdigest()}))
