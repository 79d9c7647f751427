"""What a chunk depends on, as a chain of hashes: equal keys mean equal bits.

    key_k = H(key_{k-1}, the parts of the storyboard that touch chunk k)

A chain begins at each cut, with key_{-1} = H(model, weights, numerics, ...): nothing behind a cut depends on what came
before it, except where it lies, since noise and positions are those of the whole film. So an edit of scene 3 keeps the
scenes before it and the sections after it, and an appended scene keeps all others. Latents and segments have separate
chains, so a codec or quality setting does not touch the latents.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.scene_spec import Scene
from longtake.pipeline.spec import Storyboard

Parts = Mapping[str, Any]
"""What a key is made of: plain values, with names that a person understands."""


RECORDED_LATER = ("cpu arithmetic",)
"""Numerics that earlier versions did not record: what they rendered counts as equal."""


@dataclass(frozen=True)
class ChunkKey:
    """The key of one chunk's latents or segment, and what it adds to the chain.

    Args:
        unbroken: its key in one chain through the whole film, as earlier versions wrote it. It promises the same bits,
            and more.
        older: its keys in versions that did not record `RECORDED_LATER`.
    """

    key: str
    parts: Parts
    unbroken: str = ""
    older: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """The keys under which a chunk's data counts."""
        return (self.key, self.unbroken, *self.older)


@dataclass(frozen=True)
class FilmKeys:
    """Keys of every chunk of a film.

    Args:
        latents: by chunk.
        segments: by chunk.
    """

    latents: tuple[ChunkKey, ...]
    segments: tuple[ChunkKey, ...]


def film_keys(
    storyboard: Storyboard,
    chunks: Sequence[ChunkSpan],
    numerics: Parts,
    last_seen: Callable[[ChunkSpan], ChunkSpan] = lambda chunk: chunk,
    *,
    unguided: bool = True,
    comes_in: Mapping[str, int] = MappingProxyType({}),
    retaken: Callable[[ChunkSpan], Sequence[Parts]] = lambda _: (),
) -> FilmKeys:
    """The keys of a planned film.

    Args:
        numerics: what decides the bits in addition to the storyboard: weights, versions, dtype, threads and so on. An
            "upscaler" touches segments only. "given" holds the SHA-256 of the storyboard's files by key, and "loras"
            those of its LoRAs in order.
        last_seen: gives the last chunk whose latents a chunk's pictures depend on.
        unguided: whether guidance reads a negative prompt.
        comes_in: the chunk from which on each file of a scene matters, by the file's key; the scene's first where it is
            missing.
        retaken: what retakes add to the key of a chunk; no other key depends on it.
    """
    keys = _film_keys(storyboard, chunks, numerics, last_seen, comes_in, unguided=unguided)
    if any(retaken(chunk) for chunk in chunks):
        return _retaken(keys, [retaken(chunk) for chunk in chunks])
    recorded = {name: part for name, part in numerics.items() if name not in RECORDED_LATER}
    if len(recorded) == len(numerics):
        return keys
    older = _film_keys(storyboard, chunks, recorded, last_seen, comes_in, unguided=unguided)
    return FilmKeys(_with_older(keys.latents, older.latents), _with_older(keys.segments, older.segments))


def _retaken(keys: FilmKeys, added: Sequence[Sequence[Parts]]) -> FilmKeys:
    def changed(key: ChunkKey, parts: Sequence[Parts]) -> ChunkKey:
        for number, one in enumerate(parts):
            key = ChunkKey(_hash(key.key, one), {**key.parts, f"retake {number}": one})
        return key

    latents, segments = (
        tuple(changed(key, parts) for key, parts in zip(of_kind, added, strict=True))
        for of_kind in (keys.latents, keys.segments)
    )
    return FilmKeys(latents, segments)


def _with_older(keys: Sequence[ChunkKey], older: Sequence[ChunkKey]) -> tuple[ChunkKey, ...]:
    return tuple(replace(key, older=(was.key, was.unbroken)) for key, was in zip(keys, older, strict=True))


def _film_keys(
    storyboard: Storyboard,
    chunks: Sequence[ChunkSpan],
    numerics: Parts,
    last_seen: Callable[[ChunkSpan], ChunkSpan],
    comes_in: Mapping[str, int],
    *,
    unguided: bool,
) -> FilmKeys:
    apart, given = ("upscaler", "given", "loras"), dict(numerics.get("given", {}))
    film_parts = {**{name: part for name, part in numerics.items() if name not in apart}, **_whole_film(storyboard)}
    files = [file for file in storyboard.conditioning_files() if file.key in given]
    film_parts |= {file.key: given[file.key] for file in files if file.scene is None}
    film_before = {file.key for file in files if file.kind == "film"}
    cut_parts = {name: part for name, part in film_parts.items() if name not in film_before}
    shown_parts: dict[str, Any] = {"quality": storyboard.output.quality}
    if storyboard.output.decode_batch > 1:
        shown_parts["decode_batch"] = storyboard.output.decode_batch
    if storyboard.output.upscale:
        shown_parts |= {"upscale": storyboard.output.upscale, "upscaler": numerics["upscaler"]}

    latents, chain = [], _Chain(film_parts)
    for chunk in chunks:
        span = {
            "scene_start": chunk.scene_start,
            "section": chunk.section,
            "latents": [chunk.latents.start, chunk.latents.stop],
            "audio_latents": [chunk.audio_latents.start, chunk.audio_latents.stop],
            "start_s": str(chunk.start_s),
        }
        latent_parts = {"prompt": storyboard.scenes[chunk.scene].prompt, **span}
        if unguided and (negative := storyboard.negative_of(chunk.scene)):
            latent_parts["negative"] = negative
        if loras := loras_of(storyboard, numerics.get("loras", ()), chunk.scene):
            latent_parts["loras"] = loras
        for file in (file for file in files if file.scene == chunk.scene):
            if comes_in.get(file.key, chunk.scene_start) == chunk.index:
                latent_parts[file.key.partition("].")[2]] = given[file.key]
        latent_parts |= _parts_of_footage(storyboard.scenes[chunk.scene])
        if chunk.index == chunk.section:
            chain.cut(cut_parts)
        root = film_parts if chunk.section < 0 else cut_parts
        latents.append(chain.link(latent_parts, {**root, **latent_parts}))
    segments, chain = [], _Chain(shown_parts)
    for chunk in chunks:
        seen = last_seen(chunk)
        of_latents = latents[seen.index]
        segment_parts = {
            "frames": [chunk.frames.start, chunk.frames.stop],
            "samples": [chunk.samples.start, chunk.samples.stop],
            "ends_section": seen.ends_section,
        }
        if chunk.index == chunk.section:
            chain.cut(shown_parts)
        shown = {"latents": of_latents.key, **shown_parts, **segment_parts}
        segments.append(chain.link(segment_parts, shown, of_latents))
    return FilmKeys(tuple(latents), tuple(segments))


class _Chain:
    """A chain of keys that begins again at each cut, next to the unbroken chain of earlier versions."""

    def __init__(self, root: Parts) -> None:
        self._key = self._unbroken = _hash("", root)

    def cut(self, root: Parts) -> None:
        """Begin again."""
        self._key = _hash("", root)

    def link(self, added: Parts, parts: Parts, on: ChunkKey | None = None) -> ChunkKey:
        """The next key.

        Args:
            added: what the chunk adds to the chain.
            parts: what a person is told of the key.
            on: the key of what the chunk is made of.
        """
        key, unbroken = ("", "") if on is None else (on.key, on.unbroken)
        self._key, self._unbroken = _hash(self._key + key, added), _hash(self._unbroken + unbroken, added)
        return ChunkKey(self._key, parts, self._unbroken)


def _whole_film(storyboard: Storyboard) -> Parts:
    # Until 2026-11-30, `unipc` told models fractional timesteps.
    timesteps = {"timesteps": "whole numbers"} if storyboard.sampling.solver == "unipc" else {}
    sampling = storyboard.sampling.model_dump(mode="json")
    if plans := sampling.pop("accelerate", ()):
        named = ", ".join(plan.get("method", "a calibrated plan") for plan in plans)
        timesteps["accelerate"] = f"{named} ({_hash('', {'plans': plans})})"
    return timesteps | {
        "model": storyboard.model,
        "seed": storyboard.seed,
        "video": storyboard.video.model_dump(mode="json"),
        "audio": storyboard.audio.model_dump(mode="json", exclude={"file"}),
        "sampling": sampling,
    }


def _parts_of_footage(scene: Scene) -> Parts:
    """What a scene says of its footage in addition to the files."""
    if scene.mask is None and scene.strength is None:
        return {}
    return {"boxes": scene.boxes, "keep": scene.keep, "strength": scene.strength}


def loras_of(storyboard: Storyboard, digests: Sequence[str], scene: int) -> list[dict[str, Any]]:
    """The LoRAs that are in use in a scene, as parts of a key."""
    return [
        {"sha256": digest, **spec.model_dump(mode="json", exclude={"file", "scenes"}, exclude_none=True)}
        for spec, digest in zip(storyboard.loras, digests, strict=True)
        if spec.scenes is None or scene in spec.scenes
    ]


def _hash(before: str, parts: Parts) -> str:
    return sha256(f"{before}\n{json.dumps(parts, sort_keys=True)}".encode()).hexdigest()
