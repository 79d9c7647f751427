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
from typing import Any

import safetensors.torch
from pydantic import Field
from torch import Tensor

from longtake.pipeline.journal.keys import Parts
from longtake.pipeline.journal.manifests import Manifest, ManifestStore, compact_json, manifest_file
from longtake.pipeline.journal.store import Store


@dataclass(frozen=True)
class FootageSegmentKey:
    """What a segment is kept under: its first frame, and a hash of all that decides its bytes."""

    start: int
    key: str

    @classmethod
    def of(cls, start: int, parts: Parts) -> "FootageSegmentKey":
        """The key of a segment that depends on `parts`, plain values, and on nothing else."""
        return cls(start, hash_of(parts))

    @property
    def name(self) -> str:
        """How its files begin."""
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
        """The segment's bytes as they were kept; None if it is to be made."""
        return self._manifests.get(_segment_name(key), key.key)

    def keep_segment(self, key: FootageSegmentKey, data: bytes) -> None:
        """Commit a finished segment."""
        self._manifests.commit(_segment_name(key), key.key, data)

    def state(self, key: FootageSegmentKey) -> dict[str, Tensor] | None:
        """Where the model stood behind the segment of that key; None if nobody kept it."""
        data = self._manifests.get(_state_name(key), key.key)
        return None if data is None else safetensors.torch.load(data)

    def keep_state(self, key: FootageSegmentKey, state: Mapping[str, Tensor], older: FootageSegmentKey | None) -> None:
        """Commit where the model stands behind a segment, and let go of the state that was kept behind `older`."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        self._manifests.commit(_state_name(key), key.key, safetensors.torch.save(tensors))
        if older is not None:
            manifest = self._manifests.matching(_state_name(older), older.key)
            self._manifests.forget(_state_name(older))
            if manifest is not None:
                self._store.delete(manifest.data)

    def claimed(self, keys: Iterable[FootageSegmentKey]) -> dict[FootageSegmentKey, int]:
        """Those of `keys` that have a manifest, with their bytes; no data is read for that."""
        names = self._store.list("journal/segments")
        there = [key for key in keys if manifest_file(_segment_name(key)) in names]
        found = {key: self._manifests.matching(_segment_name(key), key.key) for key in there}
        return {key: manifest.bytes for key, manifest in found.items() if manifest is not None}

    def sweep(self, keys: Iterable[FootageSegmentKey]) -> None:
        """Remove whatever belongs to none of `keys`, and data that no manifest names. For the sole writer only."""
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
