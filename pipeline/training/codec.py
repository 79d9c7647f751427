"""Training of the codecs: the video autoencoder, and the basis of the sound codec.

Shapes: b clips, f latent frames, c channels, h w pixels, n samples, l audio latents, k MDCT bins.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from longtake.pipeline.media.picture import write_png
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.models.sound_codec import SoundCodec
from longtake.pipeline.models.video_codec import TEMPORAL_STRIDE, VideoCodec
from longtake.pipeline.training.source import ClipSource
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import Batch

CALIBRATION_CLIPS = 128
SOUND_CLIPS = 384
SOUND_SECONDS = 6
SAMPLE_STEP, CALIBRATION_STEP, SOUND_STEP = range(10**9, 10**9 + 3)
"""Steps beyond any training, so that these clips are held out."""

WHITENING = 0.6
"""Channels are divided by this power of their standard deviation: quiet ones are amplified, but remain quieter."""


class CodecTask:
    """Trains the video codec by reconstruction; the sound basis is found in closed form."""

    def __init__(self, spec: TrainSpec, model: EmbeddedModel, source: ClipSource) -> None:
        options = {"latents": 3, "latent_noise": 0.1, "near_weight": 4.0, "square_weight": 5.0, **spec.options}
        self._model, self._source, self._seed = model, source, spec.seed
        self._seconds = Fraction(TEMPORAL_STRIDE * int(options.pop("latents"))) / source.fps
        self.objective: nn.Module = Reconstruction(
            model.video_codec, **{name: float(value) for name, value in options.items()}
        )

    def draw(self, seed: int, step: int, rank: int, size: int) -> Batch:
        """Short clips without sound."""
        clips = self._source.draw((seed, step), range(rank * size, (rank + 1) * size), self._seconds)
        return {"frames": clips.frames, "near": clips.near}

    def finished(self, weights: Mapping[str, Tensor]) -> EmbeddedModel:
        """The model with the trained video codec, calibrated latents and the fitted sound basis."""
        self.objective.load_state_dict(weights)
        calibrate(self._model.video_codec, self._frames())
        fit_basis(self._model.sound_codec, self._sound())
        return self._model

    def sample(self, model: EmbeddedModel, folder: Path) -> None:
        """Held-out frames above their reconstruction, as a PNG."""
        clips = self._source.draw((self._seed, SAMPLE_STEP), range(8), self._seconds)
        with torch.inference_mode():
            decoded, _ = model.video_codec.decode(model.video_codec.encode(clips.frames), None)
        rows = rearrange([clips.frames, decoded.clamp(-1, 1)], "two b f c h w -> (b two h) (f w) c")
        write_png(((rows + 1) * 127.5).round().byte(), folder / "codec.png")

    def _frames(self) -> Tensor:
        return self._source.draw((self._seed, CALIBRATION_STEP), range(CALIBRATION_CLIPS), self._seconds).frames

    def _sound(self) -> Tensor:
        return self._source.sound((self._seed, SOUND_STEP), range(SOUND_CLIPS), Fraction(SOUND_SECONDS))


class Reconstruction(nn.Module):
    """The reconstruction error of the video codec, weighted higher near moving objects."""

    def __init__(self, codec: VideoCodec, latent_noise: float, near_weight: float, square_weight: float) -> None:
        super().__init__()
        self.codec = codec
        self._latent_noise, self._near_weight, self._square_weight = latent_noise, near_weight, square_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and PSNR (dB) of a batch: "frames" [b f*4 3 h w] in -1..1, weights "near" [b f*4 h w]."""
        frames = batch["frames"]
        latents = self.codec.encode(frames)
        decoded, _ = self.codec.decode(latents + self._latent_noise * torch.randn_like(latents), None)
        error = decoded.float() - frames
        weight = 1 + self._near_weight * batch["near"].unsqueeze(2)
        loss = (weight * (error.abs() + self._square_weight * error**2)).mean()
        return {"loss": loss, "psnr_db": -10 * torch.log10((error.detach() ** 2).mean() / 4)}


@torch.no_grad()
def calibrate(codec: VideoCodec, frames: Tensor) -> None:
    """Set the normalisation so that latents of `frames` [b f*4 3 h w] have zero mean and unit variance."""
    codec.norm.momentum = None  # a cumulative average
    codec.norm.reset_running_stats()
    codec.train()
    codec.encode(frames)
    codec.eval()


@torch.no_grad()
def fit_basis(codec: SoundCodec, sound: Tensor) -> None:
    """Set the basis to the principal components of the MDCT frames of `sound` [b n].

    The scale is set so that latents have unit variance over all channels together.
    """
    hop, channels = codec.config.hop, codec.config.latent_channels
    frames = functional.pad(sound, (hop, 0)).unfold(-1, 2 * hop, hop) @ codec.mdct
    bins = rearrange(frames, "b l k -> (b l) k").double()
    variances, vectors = torch.linalg.eigh(bins.T @ bins / len(bins))
    spread = variances[-channels:].clamp_min(1e-12).sqrt().flip(0)
    codec.basis.copy_(vectors[:, -channels:].flip(1).T)
    whole = (spread ** (2 * (1 - WHITENING))).mean().sqrt()
    codec.scale.copy_(spread**WHITENING * whole)
