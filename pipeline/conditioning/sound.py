"""The sound that is given for a whole film.

Shapes: c channels, l audio latents, n samples.
"""

from collections.abc import Mapping
from functools import cache, cached_property

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.base import ConditioningInput
from longtake.pipeline.conditioning.files import GivenSound, read_or_refuse, read_sound
from longtake.pipeline.errors import SpecError
from longtake.pipeline.given_files import ConditioningFile
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.values import GivenLatents


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
