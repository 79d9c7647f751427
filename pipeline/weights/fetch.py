"""Models behind URLs: fetched once per node, checked, and found again.

A cached copy belongs to one state of its source (names, sizes, ETags), so a source that changes is fetched beside
the old copy, which others may have mapped. Files are placed whole, one by one: who is killed leaves nothing half there.
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
from longtake.pipeline.weights.folder import INDEX, PICKLES, needed, parse_index, refused
from longtake.pipeline.weights.node_cache import locked, read_record, remember_sha256, sha256_of, stamp, write_whole

BLOCK = 16 * 2**20
AT_ONCE = 4
"""Files that are fetched at the same time."""

_TAGS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "LastModified", "last_modified", "mtime", "created")
"""What file systems call that which changes with a file."""


@dataclass(frozen=True)
class Source:
    """The files of a model at a URL: by name below it, where they are, their sizes, and what changes with them."""

    url: str
    fs: Any
    paths: dict[str, str]
    sizes: dict[str, int]
    tags: dict[str, str]
    is_file: bool

    @property
    def name(self) -> str:
        """The last word of the URL."""
        return PurePosixPath(self.url.rstrip("/")).name or "model"

    @property
    def state(self) -> str:
        """What tells it from any other source, and from itself at another time."""
        state = json.dumps([self.url, self.sizes, self.tags], sort_keys=True)
        return hashlib.sha256(state.encode()).hexdigest()[:16]


def fetch(url: str, cache: Path) -> Path:
    """The folder or file at `url` as a copy on this node.

    Of several who ask on one node, one fetches and the others wait. What is there already is not fetched again,
    unless the source has changed or the copy is damaged.

    Raises:
        WeightsError: nothing is there, it cannot be read, or it is no model.
    """
    source = look(url)
    place = cache / "urls" / f"{source.name}-{source.state}"
    entry = place / source.name  # as the source is called, since films name their model
    with locked(place / "lock"), ThreadPoolExecutor(AT_ONCE) as pool:
        missing = [name for name in source.paths if not _is_whole(entry, name, cache)]
        for _ in pool.map(lambda name: _place(source, name, entry, cache), missing):
            pass
    return entry / source.name if source.is_file else entry


def look(url: str) -> Source:
    """What is at `url`. Raises `WeightsError` where that is no model."""
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
                    f"{url} holds no {INDEX}, or does not answer; name a model's folder, or a .safetensors file of ours"
                )
            index = parse_index(fs.cat_file(found[INDEX]["name"]), f"{url.rstrip('/')}/{INDEX}")
            found = {name: found[name] for name in needed(found, index, url)}
        for name, info in found.items():
            if info.get("size") is None:  # a listing over HTTP has names only
                found[name] = fs.info(info["name"])
    except WeightsError:
        raise
    except Exception as error:  # every file system has errors of its own: credentials, buckets, networks
        raise WeightsError(
            f"the weights {url} cannot be read: {error}; see that this machine may read there"
        ) from error
    paths = {name: str(info["name"]) for name, info in found.items()}
    sizes = {name: int(info["size"]) for name, info in found.items()}
    tags = {name: str([info[tag] for tag in _TAGS if tag in info]) for name, info in found.items()}
    return Source(url, fs, paths, sizes, tags, is_file)


def _record(entry: Path, name: str) -> Path:
    return entry.parent / "fetched" / f"{name}.json"


def _is_whole(entry: Path, name: str, cache: Path) -> bool:
    """Whether a file is as it was fetched; only one whose time has changed is read."""
    file, kept = entry / name, read_record(_record(entry, name))
    if not kept or not file.is_file():
        return False
    now = stamp(file)
    if now["size"] != kept["size"]:
        return False
    return bool(now["mtime_ns"] == kept["mtime_ns"]) or sha256_of(file, cache) == kept["sha256"]


def _place(source: Source, name: str, entry: Path, cache: Path) -> None:
    """Fetch one file, hashed on the way, and note its size, time and checksum."""
    file, digest, size = entry / name, hashlib.sha256(), 0
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with source.fs.open(source.paths[name], "rb") as opened, part.open("wb") as out:
            while block := opened.read(BLOCK):
                digest.update(block)
                size += out.write(block)
            out.flush()
            os.fsync(out.fileno())
    except Exception as error:  # as in `look`
        raise WeightsError(
            f"{name} of {source.url} cannot be fetched into {entry}: {error}; the same command goes on there"
        ) from error
    if size != source.sizes[name]:
        raise WeightsError(
            f"{name} of {source.url} ended after {size} of {source.sizes[name]} bytes; the same command goes on"
        )
    part.replace(file)
    remember_sha256(file, cache, digest.hexdigest())
    write_whole(_record(entry, name), json.dumps({**stamp(file), "sha256": digest.hexdigest()}))
