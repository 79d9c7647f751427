"""The inputs that condition a film: one class for each kind of file, with how it is read, checked and encoded.

A new kind of input is a class here, a line in `INPUTS`, and a key of the storyboard that is marked with its name.

Shapes: f frames or latent frames, c channels, h height, w width, l audio latents, n samples.
"""

from collections.abc import Mapping
from functools import cache, cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.codecs import ModelCodecs
from longtake.pipeline.conditioning.files import (
    GivenSound,
    film_length_s,
    read_last_frames,
    read_last_sound,
    read_or_refuse,
    read_picture,
    read_sound,
)
from longtake.pipeline.errors import SpecError
from longtake.pipeline.guards import guard
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.spec import ConditioningFile, ConditioningKind
from longtake.pipeline.values import GivenLatents, LatentChunk


class ConditioningInput:
    """One file that conditions a film. Each method has a default: the input gives nothing of this sort.

    Args:
        file: as the storyboard names it. It is read when something of it is needed first.
        model: its codecs encode.
        plan: of the film.

    Attributes:
        kind: the kind of files that the class reads.
        gives_sound: whether the film's sound is that of the file.
    """

    kind: ClassVar[ConditioningKind]
    gives_sound: ClassVar[bool] = False

    def __init__(self, file: ConditioningFile, model: FilmModel, plan: FilmPlan) -> None:
        self.file, self.model, self.plan = file, model, plan
        self.codecs = ModelCodecs(model, plan)

    def check(self) -> list[str]:
        """Notes on the file for the user. Raises `SpecError` if it is unusable."""
        return []

    def latents(self, _chunk: ChunkSpan) -> Mapping[str, GivenLatents]:
        """The latents of a chunk that it gives, by stream."""
        return {}

    def before(self, _span: ChunkSpan) -> LatentChunk | None:
        """The latents of a chunk before the film; None if the film does not continue this file."""
        return None

    def sound(self, _samples: range) -> Tensor:
        """These samples of the film's sound, [c n]; only for an input that gives sound."""
        raise NotImplementedError


class FirstImage(ConditioningInput):
    """An image: the first video latent of its scene."""

    kind = "image"

    @override
    def check(self) -> list[str]:
        self._picture()
        return []

    @override
    def latents(self, chunk: ChunkSpan) -> Mapping[str, GivenLatents]:
        if chunk.scene != self.file.scene or chunk.index != chunk.scene_start:
            return {}
        return {"video": GivenLatents((0,), self._encode())}

    @torch.inference_mode()
    def _encode(self) -> Tensor:
        frames = self._picture().expand(self.plan.clock.frames(1), -1, -1, -1)
        return self.codecs.encode_frames(frames, 1)

    def _picture(self) -> Tensor:
        video = self.plan.storyboard.video
        return read_or_refuse(self.file, lambda url: read_picture(url, video.width, video.height))


class WholeSound(ConditioningInput):
    """A sound for the whole film: all of its audio latents, and its samples as they are."""

    kind = "sound"
    gives_sound = True

    def __init__(self, file: ConditioningFile, model: FilmModel, plan: FilmPlan) -> None:
        super().__init__(file, model, plan)
        self._section_latents = cache(self._encode_section)

    @override
    def check(self) -> list[str]:
        if self._given is None:
            raise SpecError(f"{self.file.key} is {self.file.url!r}; it holds no sound, use a file that does")
        plan, has = self.plan, self._given.num_samples
        if has == plan.num_samples:
            return []
        rate = plan.clock.sample_rate
        rest = "silence follows" if has < plan.num_samples else "the rest of it is left out"
        return [f"{self.file.key} lasts {has / rate:.2f} s, the film {plan.num_samples / rate:.2f} s; {rest}"]

    @override
    def latents(self, chunk: ChunkSpan) -> Mapping[str, GivenLatents]:
        count = len(chunk.audio_latents)
        if not count:
            return {}
        first = chunk.audio_latents.start - self.plan.span(max(chunk.section, 0)).audio_latents.start
        rows = self._section_latents(chunk.section)[first : first + count]
        return {"audio": GivenLatents(tuple(range(count)), rows)}

    @override
    def sound(self, samples: range) -> Tensor:
        assert self._given is not None, "refused by `check`"
        pcm = self._given.pcm[:, samples.start : samples.stop]
        return functional.pad(pcm, (0, len(samples) - pcm.shape[1]))

    @torch.inference_mode()
    def _encode_section(self, section: int) -> Tensor:
        """Latents [l c] from a section's first audio latent to its last."""
        chunks = [chunk for chunk in self.plan.chunks if chunk.section == section]
        start, stop = chunks[0].audio_latents.start, chunks[-1].audio_latents.stop
        stride = self.plan.clock.audio_stride
        return self.codecs.encode_sound(self.sound(range(start * stride, stop * stride)), stop - start)

    @cached_property
    def _given(self) -> GivenSound | None:
        """The sound at the film's rate, as much as the film needs; None if the file has none."""
        rate, channels = self.plan.clock.sample_rate, self.codecs.channels
        most = self.plan.chunks[-1].audio_latents.stop * self.plan.clock.audio_stride
        return read_or_refuse(self.file, lambda url: read_sound(url, rate, channels, most))


class FilmBefore(ConditioningInput):
    """Another film, which this one continues: its end, as finished chunks that are numbered from below 0."""

    kind = "film"

    @override
    def check(self) -> list[str]:
        clock, first = self.plan.clock, self.plan.before[0]
        has_s = read_or_refuse(self.file, film_length_s)
        needs_s = clock.seconds(-first.frames.start)
        if has_s < needs_s - clock.seconds(1) / 2:
            raise SpecError(
                f"{self.file.key} is {self.file.url!r}, which lasts {float(has_s):g} s; {self.model.name} continues"
                f" the last {float(needs_s):g} s, use a longer film"
            )
        return []

    @override
    def before(self, span: ChunkSpan) -> LatentChunk | None:
        video, audio = self._latents
        first = self.plan.before[0]
        rows = slice(span.latents.start - first.latents.start, span.latents.stop - first.latents.start)
        begin = first.audio_latents.start
        sounds = slice(span.audio_latents.start - begin, span.audio_latents.stop - begin)
        for name, latents in (("video", video), ("audio", audio)):
            guard("embed", f"given {name} latents", latents, f"{self.file.key}", latents.dtype)
        return LatentChunk(span, video[rows], audio[sounds])

    @cached_property
    @torch.inference_mode()
    def _latents(self) -> tuple[Tensor, Tensor]:
        """Video latents [f c h w] and audio latents [l c] of the end of the other film."""
        plan, video = self.plan, self.plan.storyboard.video
        first, rate, channels = plan.before[0], plan.clock.sample_rate, self.codecs.channels
        num_frames, num_latents = -first.frames.start, -first.audio_latents.start
        num_samples = num_latents * plan.clock.audio_stride
        frames = read_or_refuse(
            self.file, lambda url: read_last_frames(url, num_frames, video.fps, video.width, video.height)
        )
        sound = read_or_refuse(self.file, lambda url: read_last_sound(url, num_samples, rate, channels))
        return (
            self.codecs.encode_frames(frames, -first.latents.start),
            self.codecs.encode_sound(sound, num_latents),
        )


INPUTS: Mapping[ConditioningKind, type[ConditioningInput]] = {
    each.kind: each for each in (FirstImage, FilmBefore, WholeSound)
}
"""The class of each kind of conditioning file."""
