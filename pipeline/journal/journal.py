"""The journal of a take: what is finished, chunk by chunk, on any store. A resumed render trusts nothing else.

    journal/latents/00007.json                   manifest of a chunk's latents; see `manifests.py`
    journal/latents/00007-4f1c....safetensors    their data
    journal/segments/00007.json                  the same of the chunk's segment

A chunk has one manifest for its latents and one for its segment. What is missing, damaged or of another key is
rendered again.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Literal, TypeVar

import safetensors.torch
import torch
from pydantic import Field

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.journal.keys import RECORDED_LATER, ChunkKey, FilmKeys, Parts
from longtake.pipeline.journal.manifests import Manifest, ManifestStore, indented_json, manifest_file
from longtake.pipeline.journal.store import Store
from longtake.pipeline.values import LatentChunk, Segment, SoundChunk, VideoFormat, VideoPacket

Value = TypeVar("Value")
Kind = Literal["latents", "segments"]


class ChunkManifest(Manifest):
    """The manifest of a chunk's latents or segment, with the parts that its key is made of."""

    data: str = Field(pattern=r"^journal/(latents|segments)/\d{5,}-[0-9a-f]{16}\.safetensors$")
    parts: dict[str, Any]


def chunk_name(kind: Kind, index: int) -> str:
    """The name of a chunk's data of this kind, which its manifest and data names begin with."""
    return f"journal/{kind}/{index:05d}"


class Journal:
    """Finished latents and segments of one take.

    Args:
        store: the take's output root.
        keys: a chunk's manifest counts if it has its key.
    """

    def __init__(self, store: Store, keys: FilmKeys) -> None:
        self._store, self._keys = store, keys
        self._manifests = ManifestStore(store, ChunkManifest, ".safetensors", indented_json)

    def latents(self, chunk: ChunkSpan) -> LatentChunk | None:
        """The chunk's latents, bit for bit as they were computed; None if they must be rendered."""
        return self._load("latents", chunk, latents_from_bytes)

    def segment(self, chunk: ChunkSpan) -> Segment | None:
        """The chunk's segment; None if it must be encoded."""
        return self._load("segments", chunk, segment_from_bytes)

    def keep_latents(self, latents: LatentChunk) -> None:
        """Commit finished latents."""
        index = latents.span.index
        self._keep("latents", index, self._keys.latents[index], latents_to_bytes(latents))

    @contextmanager
    def keeping(self, latents: LatentChunk) -> Iterator[None]:
        """Commit finished latents on a thread while the block runs; they are committed when it ends."""
        with ThreadPoolExecutor(1, thread_name_prefix="journal") as thread:
            written = thread.submit(self.keep_latents, latents)
            yield
        written.result()

    def keep_segment(self, segment: Segment) -> None:
        """Commit a finished segment."""
        index = segment.span.index
        self._keep("segments", index, self._keys.segments[index], segment_to_bytes(segment))

    def holds(self, kind: Kind, index: int) -> bool:
        """Whether a chunk's data is complete. Reads it."""
        return self._data(kind, index) is not None

    def reach(self) -> int:
        """The number of the first chunk such that the journal holds nothing of it and of later ones."""
        names = [*self._store.list("journal/latents"), *self._store.list("journal/segments")]
        found = [int(index) for name in names if (index := name.rpartition("/")[2].removesuffix(".json")).isdecimal()]
        return min(max(found, default=-1) + 1, len(self._keys.latents))

    def forget(self, index: int) -> None:
        """Remove a chunk's manifests, so that it is rendered again."""
        kinds: tuple[Kind, ...] = ("segments", "latents")
        for kind in kinds:
            self._manifests.forget(chunk_name(kind, index))

    def at(self, store: Store) -> "Journal":
        """The journal of the same film in another place."""
        return Journal(store, self._keys)

    def copy_to(self, other: "Journal") -> None:
        """Copy all data that counts in both journals to `other`, where it is missing."""
        kinds: tuple[Kind, ...] = ("latents", "segments")
        for kind in kinds:
            kept = {*other.kept(kind)}
            for index in self.kept(kind):
                wanted = other._of(kind)[index]
                if index in kept or self._of(kind)[index].key != wanted.key:
                    continue
                if (data := self._data(kind, index)) is not None:
                    other._keep(kind, index, wanted, data)

    def kept(self, kind: Kind) -> list[int]:
        """The chunks that have a manifest of this kind that counts, in order. Their data may be damaged."""
        there = self._store.list(f"journal/{kind}")
        named = [(chunk_name(kind, index), index, key) for index, key in enumerate(self._of(kind))]
        return [
            index
            for name, index, key in named
            if manifest_file(name) in there and self._manifests.matching(name, *key.accepted) is not None
        ]

    def num_kept(self, kind: Kind) -> int:
        """How many chunks have a manifest of this kind that counts."""
        return len(self.kept(kind))

    def film_key(self, published: Parts) -> str:
        """The key of the published film: its segments, and how they are published."""
        keys = [key.key for key in self._keys.segments]
        return sha256(json.dumps([keys, published], sort_keys=True).encode()).hexdigest()

    def why_not(self, kind: Kind, index: int) -> str:
        """Why a chunk's manifest does not count: the parts of its key that have changed, for users."""
        manifest, wanted = self._manifests.manifest(chunk_name(kind, index)), self._of(kind)[index].parts
        if manifest is None:
            return "not rendered yet"
        had = manifest.parts
        names = {**wanted, **had}
        changes = [f"{name} was {had.get(name)}, is {wanted.get(name)}" for name in names if _differ(had, wanted, name)]
        return "; ".join(changes) or "a chunk before it changed"

    def _load(self, kind: Kind, chunk: ChunkSpan, from_bytes: Callable[[ChunkSpan, bytes], Value]) -> Value | None:
        data = self._data(kind, chunk.index)
        return None if data is None else from_bytes(chunk, data)

    def _data(self, kind: Kind, index: int) -> bytes | None:
        """A chunk's data; None if it is missing or damaged, or holds values that are not numbers, which no stage hands
        on any more."""
        data = self._manifests.get(chunk_name(kind, index), *self._of(kind)[index].accepted)
        return data if data is not None and _is_finite(data) else None

    def _of(self, kind: Kind) -> tuple[ChunkKey, ...]:
        return self._keys.latents if kind == "latents" else self._keys.segments

    def _keep(self, kind: Kind, index: int, key: ChunkKey, data: bytes) -> None:
        self._manifests.commit(chunk_name(kind, index), key.key, data, parts=dict(key.parts))


def _differ(one: Parts, other: Parts, name: str) -> bool:
    return bool(one.get(name) != other.get(name)) and (name in one or name not in RECORDED_LATER)


def latents_to_bytes(latents: LatentChunk) -> bytes:
    """Latents as safetensors, in the dtype they were computed in."""
    return safetensors.torch.save({"video": latents.video.contiguous(), "audio": latents.audio.contiguous()})


def latents_from_bytes(span: ChunkSpan, data: bytes) -> LatentChunk:
    """The latents that `latents_to_bytes` wrote."""
    tensors = safetensors.torch.load(data)
    return LatentChunk(span, tensors["video"], tensors["audio"])


def segment_to_bytes(segment: Segment) -> bytes:
    """A segment as safetensors: packets one behind the other with their sizes, PCM, and the decoder's description."""
    tensors = {
        "packets": _bytes_tensor(b"".join(packet.data for packet in segment.packets)),
        "sizes": torch.tensor([len(packet.data) for packet in segment.packets]),
        "keyframes": torch.tensor([packet.keyframe for packet in segment.packets]),
        "extradata": _bytes_tensor(segment.format.extradata),
        "size": torch.tensor([segment.format.width, segment.format.height]),
        "codec": _bytes_tensor(segment.format.codec.encode()),
        "pix_fmt": _bytes_tensor(segment.format.pix_fmt.encode()),
        "pcm": segment.sound.pcm.contiguous(),
        "sound": torch.tensor([segment.sound.start_sample, segment.sound.sample_rate]),
    }
    return safetensors.torch.save(tensors)


def segment_from_bytes(span: ChunkSpan, data: bytes) -> Segment:
    """The segment that `segment_to_bytes` wrote."""
    t = safetensors.torch.load(data)
    packets, start = [], 0
    stream = t["packets"].numpy().tobytes()
    for frame, size, keyframe in zip(span.frames, t["sizes"].tolist(), t["keyframes"].tolist(), strict=True):
        packets.append(VideoPacket(frame, keyframe, stream[start : start + size]))
        start += size
    width, height = t["size"].tolist()
    codec, pix_fmt, extradata = (t[name].numpy().tobytes() for name in ("codec", "pix_fmt", "extradata"))
    start_sample, sample_rate = t["sound"].tolist()
    return Segment(
        span,
        VideoFormat(width, height, codec.decode(), pix_fmt.decode(), extradata),
        tuple(packets),
        SoundChunk(start_sample, sample_rate, t["pcm"]),
    )


def _is_finite(data: bytes) -> bool:
    tensors = safetensors.torch.load(data).values()
    return all(tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point())


def _bytes_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
