"""What the user gives a film beside its prompts, encoded: pictures, a sound, and the end of another film.

Every process that needs some of it encodes it for itself, once and alike, from files whose SHA-256 is part of the
journal's keys. What the film goes on from becomes chunks that are finished already, numbered from below 0: whatever
looks back at finished chunks looks back at them, and nobody else knows.
"""

from collections.abc import Callable
from functools import cache, cached_property
from hashlib import sha256
from math import prod
from typing import TypeVar, cast

import fsspec
import torch
from torch import Tensor
from torch.nn import functional

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.files import (
    film_length_s,
    read_last_frames,
    read_last_sound,
    read_picture,
    read_sound,
)
from longtake.pipeline.errors import ShapeError, SpecError
from longtake.pipeline.models.protocols import FilmModel, SoundEncoder, VideoEncoder
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.spec import Storyboard
from longtake.pipeline.values import Given, GivenLatents, LatentChunk

Value = TypeVar("Value")

_BLOCK_BYTES = 1 << 20


class ConditioningEncoder:
    """What a film is given, by chunk; nothing is read before it is asked for.

    Args:
        model: whose codecs encode, where its limits say so.
        plan: of the film.
    """

    def __init__(self, model: FilmModel, plan: FilmPlan) -> None:
        self._model, self._plan, self._storyboard = model, plan, plan.storyboard
        self._section_sound = cache(self._encode_section)

    def __call__(self, chunk: ChunkSpan) -> Given | None:
        """What is given of a chunk; None where everything is rendered."""
        streams = {}
        image = self._storyboard.scenes[chunk.scene].image
        if image is not None and chunk.index == chunk.scene_start:
            streams["video"] = GivenLatents((0,), self._encode_image(f"scenes[{chunk.scene}].image", image))
        if self._storyboard.audio.file is not None and chunk.audio_latents:
            first = chunk.audio_latents.start - self._plan.span(max(chunk.section, 0)).audio_latents.start
            rows = self._section_sound(chunk.section)[first : first + len(chunk.audio_latents)]
            streams["audio"] = GivenLatents(tuple(range(len(chunk.audio_latents))), rows)
        return Given(chunk, streams) if streams else None

    def before(self, span: ChunkSpan) -> LatentChunk:
        """The latents of a chunk before the film, of the film that it goes on from."""
        video, audio = self._before
        first = self._plan.before[0]
        rows = slice(span.latents.start - first.latents.start, span.latents.stop - first.latents.start)
        begin = first.audio_latents.start
        sounds = slice(span.audio_latents.start - begin, span.audio_latents.stop - begin)
        return LatentChunk(span, video[rows], audio[sounds])

    def sound(self, samples: range) -> Tensor:
        """These samples of the film's given sound, [c n]; silence where it is over."""
        assert self._song is not None, "a film without a given sound has no such samples"
        pcm = self._song[:, samples.start : samples.stop]
        return functional.pad(pcm, (0, len(samples) - pcm.shape[1]))

    def check(self) -> list[str]:
        """What the user should know of the files. Raises one `SpecError` for whatever cannot be used."""
        mistakes, notes = [], []
        for key, file in self._storyboard.given().items():
            try:
                notes += {"continue_from": self._check_film, "audio.file": self._check_sound}.get(
                    key, self._check_image
                )(key, file)
            except SpecError as error:
                mistakes.append(str(error))
        if mistakes:
            raise SpecError("\n".join(mistakes))
        return notes

    def _check_image(self, key: str, file: str) -> list[str]:
        _read(key, file, lambda: read_picture(file, self._storyboard.video.width, self._storyboard.video.height))
        return []

    def _check_film(self, key: str, file: str) -> list[str]:
        has_s = _read(key, file, lambda: film_length_s(file))
        needs_s = self._plan.clock.seconds(-self._plan.before[0].frames.start)
        if has_s < needs_s - self._plan.clock.seconds(1) / 2:
            raise SpecError(
                f"{key} is {file!r}, which lasts {float(has_s):g} s; {self._model.name} goes on from the last"
                f" {float(needs_s):g} s, use a longer film"
            )
        return []

    def _check_sound(self, key: str, file: str) -> list[str]:
        if self._song is None:
            raise SpecError(f"{key} is {file!r}; it holds no sound, use a file that does")
        plan, has = self._plan, self._song.shape[1]
        if has == plan.num_samples:
            return []
        rate = plan.clock.sample_rate
        rest = "silence follows" if has < plan.num_samples else "the rest of it is left out"
        return [f"{key} lasts {has / rate:.2f} s, the film {plan.num_samples / rate:.2f} s; {rest}"]

    @torch.inference_mode()
    def _encode_image(self, key: str, file: str) -> Tensor:
        plan = self._plan
        picture = _read(
            key, file, lambda: read_picture(file, self._storyboard.video.width, self._storyboard.video.height)
        )
        return self._encoded_frames(picture.expand(plan.clock.frames(1), -1, -1, -1), 1)

    @torch.inference_mode()
    def _encode_section(self, section: int) -> Tensor:
        """Latents [l c] of the given sound from a section's first audio latent to its last."""
        chunks = [chunk for chunk in self._plan.chunks if chunk.section == section]
        latents, stride = range(chunks[0].audio_latents.start, chunks[-1].audio_latents.stop), self._stride
        return self._encoded_sound(self.sound(range(latents.start * stride, latents.stop * stride)), len(latents))

    @cached_property
    @torch.inference_mode()
    def _before(self) -> tuple[Tensor, Tensor]:
        """Latents [f c h w] and [l c] of what the film goes on from."""
        plan, file, video = self._plan, self._storyboard.continue_from, self._storyboard.video
        assert file is not None, "only films that go on from another one have chunks before their first"
        first, rate = plan.before[0], plan.clock.sample_rate
        num_frames, num_latents = -first.frames.start, -first.audio_latents.start
        frames = _read(
            "continue_from", file, lambda: read_last_frames(file, num_frames, video.fps, video.width, video.height)
        )
        num_samples = num_latents * self._stride
        sound = _read("continue_from", file, lambda: read_last_sound(file, num_samples, rate, self._channels))
        return self._encoded_frames(frames, -first.latents.start), self._encoded_sound(sound, num_latents)

    @cached_property
    def _song(self) -> Tensor | None:
        """The given sound [c n] as it is; None where the file has none."""
        file = self._storyboard.audio.file
        assert file is not None, "asked for where there is one"
        return _read("audio.file", file, lambda: read_sound(file, self._plan.clock.sample_rate, self._channels))

    def _encoded_frames(self, frames: Tensor, num_latents: int) -> Tensor:
        codec, model = cast(VideoEncoder, self._model.video_codec), self._model
        latents = codec.encode(frames.unsqueeze(0).to(model.device, model.dtype))[0]
        return _sized(latents, (num_latents, *self._plan.latent_shapes["video"]), "video")

    def _encoded_sound(self, sound: Tensor, num_latents: int) -> Tensor:
        shape, model = (num_latents, *self._plan.latent_shapes["audio"]), self._model
        if not prod(shape):
            return torch.zeros(shape, dtype=model.dtype, device=model.device)
        codec = cast(SoundEncoder, model.sound_codec)
        return _sized(codec.encode(sound.to(model.device, model.dtype))[0], shape, "audio")

    @property
    def _channels(self) -> int:
        return cast(SoundEncoder, self._model.sound_codec).channels if prod(self._plan.latent_shapes["audio"]) else 1

    @property
    def _stride(self) -> int:
        return self._plan.clock.audio_stride


def digests(storyboard: Storyboard) -> dict[str, str]:
    """SHA-256 of the files that a wish is given, by key. Raises one `SpecError` for all that cannot be read."""
    found, mistakes = {}, []
    for key, file in storyboard.given().items():
        try:
            found[key] = _read(key, file, lambda file=file: _digest(file))  # type: ignore[misc]
        except SpecError as error:
            mistakes.append(str(error))
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return found


def _digest(file: str) -> str:
    digest = sha256()
    with fsspec.open(file, "rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _read(key: str, file: str, reader: Callable[[], Value]) -> Value:
    """What `reader` makes of a file. Raises `SpecError` that names the key where it cannot."""
    try:
        return reader()
    except FileNotFoundError:
        raise SpecError(f"{key} is {file!r}; nothing is there, use a path beside the storyboard or a URL") from None
    except Exception as error:  # every file system has errors of its own: credentials, buckets, networks
        raise SpecError(f"{key} is {file!r}; it cannot be used: {error}") from error


def _sized(latents: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if tuple(latents.shape) != shape:
        raise ShapeError(f"the codec encoded {name} to {list(latents.shape)}; what is given asks for {list(shape)}")
    return latents
