"""The journal of an upscaled film: finished footage segments, under keys that hash what they depend on.

    journal/segments/00000096-4f1c....json       manifest; see `manifests.py`
    journal/segments/00000096-4f1c....-9a....bin its data
    journal/states/...                           the model's state after a segment, to continue from

Names begin with the segment's first frame and its key, so a changed plan finds the segments that it shares with an
earlier one. What is missing, damaged or of another key is made again.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import safetensors.torch
from pydantic import Field
from torch import Tensor

from longtake.pipeline.journal.keys import Parts
from longtake.pipeline.journal.manifests import Manifest, ManifestStore, compact_json, manifest_file
from longtake.pipeline.journal.store import Store


@dataclass(frozen=True)
class FootageSegmentKey:
    """The key of a segment: its first frame, and a hash of everything that decides its bytes."""

    start: int
    key: str

    @classmethod
    def of(cls, start: int, parts: Parts) -> "FootageSegmentKey":
        """The key of a segment that depends on `parts`, plain values, and on nothing else."""
        return cls(start, hash_of(parts))

    @property
    def name(self) -> str:
        """How the names of its files begin."""
        return f"{self.start:08d}-{self.key[:16]}"


def hash_of(parts: Mapping[str, Any]) -> str:
    """A hash of plain values."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Manifest(Manifest):
    data: str = Field(pattern=r"^journal/(segments|states)/\d{8,}-[0-9a-f]{16}-[0-9a-f]{16}\.bin$")


class FootageSegmentJournal:
    """Finished segments of one film, as bytes, and model states between them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._manifests = ManifestStore(store, _Manifest, ".bin", compact_json)

    def segment(self, key: FootageSegmentKey) -> bytes | None:
        """The segment's bytes as they were kept; None if it must be made."""
        return self._manifests.get(_segment_name(key), key.key)

    def keep_segment(self, key: FootageSegmentKey, data: bytes) -> None:
        """Commit a finished segment."""
        self._manifests.commit(_segment_name(key), key.key, data)

    def state(self, key: FootageSegmentKey) -> dict[str, Tensor] | None:
        """The model's state after the segment of that key; None if it is missing."""
        data = self._manifests.get(_state_name(key), key.key)
        return None if data is None else safetensors.torch.load(data)

    def keep_state(self, key: FootageSegmentKey, state: Mapping[str, Tensor], older: FootageSegmentKey | None) -> None:
        """Commit the model's state after a segment, and delete the state after `older`."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        self._manifests.commit(_state_name(key), key.key, safetensors.torch.save(tensors))
        if older is not None:
            manifest = self._manifests.matching(_state_name(older), older.key)
            self._manifests.forget(_state_name(older))
            if manifest is not None:
                self._store.delete(manifest.data)

    def claimed(self, keys: Iterable[FootageSegmentKey]) -> dict[FootageSegmentKey, int]:
        """Those of `keys` that have a manifest, with their bytes. Reads no data."""
        names = self._store.list("journal/segments")
        there = [key for key in keys if manifest_file(_segment_name(key)) in names]
        found = {key: self._manifests.matching(_segment_name(key), key.key) for key in there}
        return {key: manifest.bytes for key, manifest in found.items() if manifest is not None}

    def sweep(self, keys: Iterable[FootageSegmentKey]) -> None:
        """Delete what belongs to none of `keys`, and data that no manifest names. For the sole writer only."""
        wanted: set[str] = set()
        for key in keys:
            manifest = self._manifests.matching(_segment_name(key), key.key)
            if manifest is not None:
                wanted.update((manifest_file(_segment_name(key)), manifest.data))
        for folder in ("segments", "states"):
            for name in self._store.list(f"journal/{folder}"):
                if name not in wanted:
                    self._store.delete(name)


def _segment_name(key: FootageSegmentKey) -> str:
    return f"journal/segments/{key.name}"


def _state_name(key: FootageSegmentKey) -> str:
    return f"journal/states/{key.name}"
