"""The journal of an upscaled film: finished segments, under keys that say what they depend on.

    journal/segments/00000096-4f1c....json       manifest: key, name of the data, its size and checksum; put last
    journal/segments/00000096-4f1c....-9a....bin the data, under a name that no other attempt uses; put first
    journal/states/...                           where the model stood behind a segment, for whoever goes on from there

Names begin with the segment's first frame and its key, so a plan that changes finds whatever it shares with an
earlier one. A manifest counts when its key is the one asked for; data counts when it has the manifest's checksum.
Whatever does not count is made again.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_hex
from typing import Any

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from longtake.pipeline.journal.keys import Parts
from longtake.pipeline.journal.store import Store


@dataclass(frozen=True)
class SegmentKey:
    """What a segment is kept under: its first frame, and a hash of all that decides its bytes."""

    start: int
    key: str

    @classmethod
    def of(cls, start: int, parts: Parts) -> "SegmentKey":
        """The key of a segment that depends on `parts`, plain values, and on nothing else."""
        return cls(start, hash_of(parts))

    @property
    def name(self) -> str:
        """How its files begin."""
        return f"{self.start:08d}-{self.key[:16]}"


def hash_of(parts: Mapping[str, Any]) -> str:
    """A hash of plain values."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True)

    key: str
    data: str = Field(pattern=r"^journal/(segments|states)/\d{8,}-[0-9a-f]{16}-[0-9a-f]{16}\.bin$")
    bytes: int
    sha256: str


class SegmentJournal:
    """Finished segments of one film, as bytes, and model states between them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def segment(self, key: SegmentKey) -> bytes | None:
        """The segment's bytes as they were kept; None if it is to be made."""
        return self._get("segments", key)

    def keep_segment(self, key: SegmentKey, data: bytes) -> None:
        """Commit a finished segment."""
        self._keep("segments", key, data)

    def state(self, key: SegmentKey) -> dict[str, Tensor] | None:
        """Where the model stood behind the segment of that key; None if nobody kept it."""
        data = self._get("states", key)
        return None if data is None else safetensors.torch.load(data)

    def keep_state(self, key: SegmentKey, state: Mapping[str, Tensor], older: SegmentKey | None) -> None:
        """Commit where the model stands behind a segment, and let go of the state that was kept behind `older`."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        self._keep("states", key, safetensors.torch.save(tensors))
        if older is not None:
            self._forget("states", older)

    def claimed(self, keys: Iterable[SegmentKey]) -> dict[SegmentKey, int]:
        """Those of `keys` that have a manifest, with their bytes; no data is read for that."""
        names = self._store.list("journal/segments")
        there = [key for key in keys if _manifest_name("segments", key) in names]
        found = {key: self._manifest("segments", key) for key in there}
        return {key: manifest.bytes for key, manifest in found.items() if manifest is not None}

    def sweep(self, keys: Iterable[SegmentKey]) -> None:
        """Remove whatever belongs to none of `keys`, and data that no manifest names. For the sole writer only."""
        wanted: set[str] = set()
        for key in keys:
            manifest = self._manifest("segments", key)
            if manifest is not None:
                wanted.update((_manifest_name("segments", key), manifest.data))
        for folder in ("segments", "states"):
            for name in self._store.list(f"journal/{folder}"):
                if name not in wanted:
                    self._store.delete(name)

    def _manifest(self, folder: str, key: SegmentKey) -> _Manifest | None:
        try:
            manifest = _Manifest.model_validate_json(self._store.get(_manifest_name(folder, key)))
        except (FileNotFoundError, ValidationError):
            return None
        return manifest if manifest.key == key.key else None

    def _get(self, folder: str, key: SegmentKey) -> bytes | None:
        manifest = self._manifest(folder, key)
        if manifest is None:
            return None
        try:
            data = self._store.get(manifest.data)
        except FileNotFoundError:
            return None
        return data if sha256(data).hexdigest() == manifest.sha256 else None

    def _keep(self, folder: str, key: SegmentKey, data: bytes) -> None:
        name = f"journal/{folder}/{key.name}-{token_hex(8)}.bin"
        self._store.put(name, data)
        manifest = _Manifest(key=key.key, data=name, bytes=len(data), sha256=sha256(data).hexdigest())
        self._store.put(_manifest_name(folder, key), manifest.model_dump_json().encode())

    def _forget(self, folder: str, key: SegmentKey) -> None:
        manifest = self._manifest(folder, key)
        self._store.delete(_manifest_name(folder, key))
        if manifest is not None:
            self._store.delete(manifest.data)


def _manifest_name(folder: str, key: SegmentKey) -> str:
    return f"journal/{folder}/{key.name}.json"
