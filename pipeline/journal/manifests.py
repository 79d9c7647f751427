"""Committed data: a blob with a manifest that names it.

    NAME-4f1c....safetensors     the data, under a name that no other attempt uses; written first
    NAME.json                    the manifest: key, name of the data, its size and checksum; written last

A manifest counts if its key is the one that is asked for, and data counts if it has the manifest's checksum. A writer
that dies between the two leaves data that no manifest names, and the earlier manifest stays valid.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from secrets import token_hex
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from longtake.pipeline.journal.store import Store


class Manifest(BaseModel):
    """The key of some data, and its name, size and checksum. A subclass constrains `data` to the names that it may
    have, since these names are read from a file and deleted."""

    model_config = ConfigDict(frozen=True)

    key: str
    data: str
    bytes: int
    sha256: str


ManifestT = TypeVar("ManifestT", bound=Manifest)


class ManifestStore(Generic[ManifestT]):
    """Data under keys in a store.

    Args:
        store: where the data lies.
        kind: of the manifests.
        suffix: of the data's names.
        to_json: the manifest as it is written.
    """

    def __init__(
        self, store: Store, kind: type[ManifestT], suffix: str, to_json: Callable[[dict[str, Any]], str]
    ) -> None:
        self._store, self._kind, self._suffix, self._to_json = store, kind, suffix, to_json

    def manifest(self, name: str) -> ManifestT | None:
        """The manifest of `name`, of any key; None if it is missing or damaged."""
        return read_manifest(self._store, manifest_file(name), self._kind)

    def matching(self, name: str, *keys: str) -> ManifestT | None:
        """The manifest of `name` if it has one of these keys."""
        manifest = self.manifest(name)
        return manifest if manifest is not None and manifest.key in keys else None

    def get(self, name: str, *keys: str) -> bytes | None:
        """The data of `name` as it was committed under one of `keys`; None if it is missing or damaged."""
        manifest = self.matching(name, *keys)
        if manifest is None:
            return None
        try:
            data = self._store.get(manifest.data)
        except FileNotFoundError:
            return None
        return data if sha256(data).hexdigest() == manifest.sha256 else None

    def commit(self, name: str, key: str, data: bytes, **more: Any) -> None:
        """Write `data` and then its manifest, which replaces an earlier one.

        Args:
            more: further fields of the manifest.
        """
        data_name = f"{name}-{token_hex(8)}{self._suffix}"
        self._store.put(data_name, data)
        manifest = self._kind(key=key, data=data_name, bytes=len(data), sha256=sha256(data).hexdigest(), **more)
        self._store.put(manifest_file(name), self._to_json(manifest.model_dump()).encode())

    def forget(self, name: str) -> None:
        """Remove the manifest of `name`. Its data stays, and no longer counts."""
        self._store.delete(manifest_file(name))


def manifest_file(name: str) -> str:
    """The name of the manifest of `name`."""
    return f"{name}.json"


def read_manifest(store: Store, file: str, kind: type[ManifestT]) -> ManifestT | None:
    """The manifest in `file`; None if it is missing or damaged."""
    try:
        return kind.model_validate_json(store.get(file))
    except (FileNotFoundError, ValidationError):
        return None


def indented_json(fields: dict[str, Any]) -> str:
    """JSON on several lines, for people."""
    return json.dumps(fields, indent=1)


def compact_json(fields: dict[str, Any]) -> str:
    """JSON without spaces."""
    return json.dumps(fields, separators=(",", ":"))
