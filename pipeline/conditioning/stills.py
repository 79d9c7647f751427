"""Pictures that are given at a moment of a scene: its first, its last, and any in between.

Shapes: c channels, h height, w width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.base import ConditioningInput
from longtake.pipeline.conditioning.files import read_or_refuse, read_picture
from longtake.pipeline.values import GivenLatents


class Still(ConditioningInput):
    """A picture that fills one video latent of its scene; the subclasses say which."""

    @override
    def check(self) -> list[str]:
        self._picture()
        return []

    @override
    def latents(self, chunk: ChunkSpan) -> Mapping[str, GivenLatents]:
        index, place = self.plan.place_of(self.file)
        return {"video": GivenLatents((place,), self._encode())} if chunk.index == index else {}

    @torch.inference_mode()
    def _encode(self) -> Tensor:
        frames = self._picture().expand(self.plan.clock.frames(1), -1, -1, -1)
        return self.codecs.encode_frames(frames, 1)

    def _picture(self) -> Tensor:
        video = self.plan.storyboard.video
        return read_or_refuse(self.file, lambda url: read_picture(url, video.width, video.height))


class FirstImage(Still):
    """The picture of a scene's first video latent."""

    kind = "image"


class Keyframe(Still):
    """The picture of the video latent that shows a moment of a scene."""

    kind = "keyframe"


class LastImage(Still):
    """The picture of a scene's last video latent."""

    kind = "last image"
