"""The journal of a take: what is finished, by chunk, on any store. The only truth a resumed render believes.

    journal/latents/00007.json            manifest: key, name of the data, its size and checksum; put last
    journal/latents/00007-4f1c....safetensors    the data, under a name that no other attempt uses; put first

A chunk has one manifest for its latents and one for its segment. A manifest counts when its key is the one the wish
asks for; data counts when it has the manifest's checksum. Whatever does not count is rendered again.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from secrets import token_hex
from typing import Any, Literal, TypeVar

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.journal.keys import ChunkKey, FilmKeys
from longtake.pipeline.journal.store import Store
from longtake.pipeline.values import LatentChunk, Segment, SoundChunk, VideoFormat, VideoPacket

Value = TypeVar("Value")
Kind = Literal["latents", "segments"]


class Manifest(BaseModel):
    """What counts of one chunk: the data's key, its name, size and checksum, and what the key is made of."""

    model_config = ConfigDict(frozen=True)

    key: str
    data: str = Field(pattern=r"^journal/(latents|segments)/\d{5,}-[0-9a-f]{16}\.safetensors$")
    bytes: int
    sha256: str
    parts: dict[str, Any]


def manifest_name(kind: Kind, index: int) -> str:
    """Where a chunk's manifest is."""
    return f"journal/{kind}/{index:05d}.json"


class Journal:
    """Finished latents and segments of one take.

    Args:
        store: the take's output root.
        keys: what every chunk's manifest must say to count.
    """

    def __init__(self, store: Store, keys: FilmKeys) -> None:
        self._store, self._keys = store, keys

    def latents(self, chunk: ChunkSpan) -> LatentChunk | None:
        """The chunk's latents, bit for bit as they were computed; None if they are to be rendered."""
        return self._load("latents", chunk, self._keys.latents[chunk.index], latents_from_bytes)

    def segment(self, chunk: ChunkSpan) -> Segment | None:
        """The chunk's segment; None if it is to be encoded."""
        return self._load("segments", chunk, self._keys.segments[chunk.index], segment_from_bytes)

    def keep_latents(self, latents: LatentChunk) -> None:
        """Commit finished latents."""
        index = latents.span.index
        self._keep("latents", index, self._keys.latents[index], latents_to_bytes(latents))

    def keep_segment(self, segment: Segment) -> None:
        """Commit a finished segment."""
        index = segment.span.index
        self._keep("segments", index, self._keys.segments[index], segment_to_bytes(segment))

    def holds(self, kind: Kind, index: int) -> bool:
        """Whether a chunk's data is there and whole; it is read for that."""
        return self._data(kind, index, getattr(self._keys, kind)[index]) is not None

    def reach(self) -> int:
        """The first chunk from which on the journal holds nothing."""
        names = [*self._store.list("journal/latents"), *self._store.list("journal/segments")]
        found = [int(index) for name in names if (index := name.rpartition("/")[2].removesuffix(".json")).isdecimal()]
        return min(max(found, default=-1) + 1, len(self._keys.latents))

    def forget(self, index: int) -> None:
        """Have a chunk rendered again, whatever is kept of it."""
        for kind in ("segments", "latents"):
            self._store.delete(manifest_name(kind, index))

    def num_kept(self, kind: Kind) -> int:
        """How many chunks, from the film's start, have a manifest of this kind that counts."""
        keys = getattr(self._keys, kind)
        return next((i for i, key in enumerate(keys) if not self._counts(kind, i, key)), len(keys))

    def why_not(self, kind: Kind, index: int) -> str:
        """Why a chunk's manifest does not count: what the take was rendered with, and what is asked for now."""
        manifest, wanted = self._manifest(kind, index), getattr(self._keys, kind)[index].parts
        if manifest is None:
            return "not rendered yet"
        had = manifest.parts
        changes = [f"{name} was {had.get(name)}, is {wanted[name]}" for name in wanted if had.get(name) != wanted[name]]
        return "; ".join(changes) or "a chunk before it changed"

    def _counts(self, kind: Kind, index: int, key: ChunkKey) -> bool:
        manifest = self._manifest(kind, index)
        return manifest is not None and manifest.key == key.key

    def _manifest(self, kind: Kind, index: int) -> Manifest | None:
        return read_manifest(self._store, manifest_name(kind, index))

    def _load(
        self, kind: Kind, chunk: ChunkSpan, key: ChunkKey, from_bytes: Callable[[ChunkSpan, bytes], Value]
    ) -> Value | None:
        data = self._data(kind, chunk.index, key)
        return None if data is None else from_bytes(chunk, data)

    def _data(self, kind: Kind, index: int, key: ChunkKey) -> bytes | None:
        manifest = self._manifest(kind, index)
        if manifest is None or manifest.key != key.key:
            return None
        try:
            data = self._store.get(manifest.data)
        except FileNotFoundError:
            return None
        return data if sha256(data).hexdigest() == manifest.sha256 else None

    def _keep(self, kind: Kind, index: int, key: ChunkKey, data: bytes) -> None:
        name = f"journal/{kind}/{index:05d}-{token_hex(8)}.safetensors"
        self._store.put(name, data)
        manifest = Manifest(
            key=key.key, data=name, bytes=len(data), sha256=sha256(data).hexdigest(), parts=dict(key.parts)
        )
        self._store.put(manifest_name(kind, index), json.dumps(manifest.model_dump(), indent=1).encode())


def read_manifest(store: Store, name: str) -> Manifest | None:
    """The manifest under `name`; None where there is none, or a damaged one: its chunk is rendered again."""
    try:
        return Manifest.model_validate_json(store.get(name))
    except (FileNotFoundError, ValidationError):
        return None


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


def _bytes_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
