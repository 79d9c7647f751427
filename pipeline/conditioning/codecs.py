"""A model's codecs as encoders of conditioning inputs.

Shapes: b batch, f frames or latent frames, c channels, h height, w width, l audio latents, n samples.
"""

from math import prod
from typing import cast

import torch
from torch import Tensor

from longtake.pipeline.errors import ShapeError
from longtake.pipeline.models.protocols import FilmModel, SoundEncoder, VideoEncoder
from longtake.pipeline.plan import FilmPlan


class ModelCodecs:
    """Encodes frames and sound to latents of a planned film, with sizes checked.

    Args:
        model: its codecs encode, as its limits promise.
        plan: of the film.
    """

    def __init__(self, model: FilmModel, plan: FilmPlan) -> None:
        self._model, self._shapes = model, plan.latent_shapes

    @property
    def channels(self) -> int:
        """Channels of the sound that the model encodes; 1 for a silent model."""
        return cast(SoundEncoder, self._model.sound_codec).channels if prod(self._shapes["audio"]) else 1

    def encode_frames(self, frames: Tensor, num_latents: int) -> Tensor:
        """Video latents [f c h w] of frames [f 3 h w] in -1..1."""
        codec, model = cast(VideoEncoder, self._model.video_codec), self._model
        latents = codec.encode(frames.unsqueeze(0).to(model.device, model.dtype))[0]
        return _sized(latents, (num_latents, *self._shapes["video"]), "video")

    def encode_sound(self, sound: Tensor, num_latents: int) -> Tensor:
        """Audio latents [l c] of sound [c n] in -1..1."""
        shape, model = (num_latents, *self._shapes["audio"]), self._model
        if not prod(shape):
            return torch.zeros(shape, dtype=model.dtype, device=model.device)
        codec = cast(SoundEncoder, model.sound_codec)
        return _sized(codec.encode(sound.to(model.device, model.dtype))[0], shape, "audio")


def _sized(latents: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if tuple(latents.shape) != shape:
        raise ShapeError(f"the codec encoded {name} to {list(latents.shape)}; the plan needs {list(shape)}")
    return latents
