"""The film that another one continues.

Shapes: f latent frames, c channels, h height, w width, l audio latents.
"""

from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.base import ConditioningInput
from longtake.pipeline.conditioning.files import film_length_s, read_last_frames, read_last_sound, read_or_refuse
from longtake.pipeline.errors import SpecError
from longtake.pipeline.guards import guard
from longtake.pipeline.values import LatentChunk


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
