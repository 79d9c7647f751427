"""Training of the codecs: the video autoencoder, and the basis of the sound codec.

Shapes: b clips, f latent frames, c channels, h w pixels, m channels of the sound, n samples, l audio latents, k bins of
all channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from longtake.pipeline.errors import SpecError
from longtake.pipeline.media.picture import write_png
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.models.sound_codec import SoundCodec
from longtake.pipeline.models.video_codec import TEMPORAL_STRIDE, VideoCodec
from longtake.pipeline.training.options import read_options
from longtake.pipeline.training.source import ClipSource
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import Batch
from longtake.pipeline.weights.load import load_model

CALIBRATION_CLIPS = 128
SOUND_CLIPS = 384
SOUND_SECONDS = 6
SAMPLE_STEP, CALIBRATION_STEP, SOUND_STEP = range(10**9, 10**9 + 3)
"""Steps beyond any training, so that these clips are held out."""

FOLLOWED = 0.02
"""How far running statistics move towards those of a batch."""

WHITENING = 0.6
"""Channels are divided by this power of their standard deviation: quiet ones are amplified, but remain quieter."""


@dataclass(frozen=True)
class CodecOptions:
    """Options of codec training.

    Args:
        video_codec_of: a model, by name or path, with whose video codec the training starts, unless `start` is set.
        own_statistics: whether latents are normalised by the statistics of their batch. Those of few clips would hide
            how bright they are, so that running statistics are better for small batches. The running ones are saved;
            they belong to the last weights, not to averages of them, so `ema` should be 0.
        latents: in a clip.
        latent_noise: standard deviation of the noise on latents.
        near_weight: further weight of pixels near objects.
        square_weight: weight of the squared error relative to the absolute one.
    """

    video_codec_of: str = ""
    own_statistics: bool = True
    latents: int = 3
    latent_noise: float = 0.1
    near_weight: float = 4.0
    square_weight: float = 5.0


class CodecTask:
    """Trains the video codec by reconstruction; the sound basis is found in closed form."""

    def __init__(self, spec: TrainSpec, model: EmbeddedModel, source: ClipSource) -> None:
        options: CodecOptions
        (options,) = read_options(spec.options, CodecOptions)
        if options.video_codec_of and spec.start is None:
            take_over(model, options.video_codec_of)
        self._model, self._source, self._seed = model, source, spec.seed
        self._seconds = Fraction(TEMPORAL_STRIDE * options.latents) / source.fps
        self._own_statistics, self._sound_fits = options.own_statistics, False
        self.objective: nn.Module = Reconstruction(model.video_codec, options)

    def draw(self, seed: int, step: int, rank: int, size: int) -> Batch:
        """Short clips without sound."""
        clips = self._source.draw((seed, step), range(rank * size, (rank + 1) * size), self._seconds)
        return {"frames": clips.frames, "near": clips.near}

    def finished(self, weights: Mapping[str, Tensor]) -> EmbeddedModel:
        """The model with the trained video codec, calibrated latents and the fitted sound basis."""
        self.objective.load_state_dict(weights)
        if self._own_statistics:
            calibrate(self._model.video_codec, self._frames())
        if not self._sound_fits:
            fit_basis(self._model.sound_codec, self._sound())
            self._sound_fits = True
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
        return self._source.sound((self._seed, SOUND_STEP), range(SOUND_CLIPS), Fraction(SOUND_SECONDS)).flatten(0, -2)


class Reconstruction(nn.Module):
    """The reconstruction error of the video codec, weighted higher near moving objects."""

    def __init__(self, codec: VideoCodec, options: CodecOptions) -> None:
        super().__init__()
        self.codec, self._options = codec, options

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and PSNR (dB) of a batch: "frames" [b f*4 3 h w] in -1..1, weights "near" [b f*4 h w]."""
        frames, options = batch["frames"], self._options
        self.codec.norm.train(options.own_statistics)
        latents = self.codec.encode(frames)
        if not options.own_statistics:
            follow_statistics(self.codec.norm, latents.float())
        decoded, _ = self.codec.decode(latents + options.latent_noise * torch.randn_like(latents), None)
        error = decoded.float() - frames
        weight = 1 + options.near_weight * batch["near"].unsqueeze(2)
        loss = (weight * (error.abs() + options.square_weight * error**2)).mean()
        return {"loss": loss, "psnr_db": -10 * torch.log10((error.detach() ** 2).mean() / 4)}


def take_over(model: EmbeddedModel, name: str) -> None:
    """Start the video codec of `model` from that of the model called `name`."""
    other = load_model(name)
    if other.config.video_codec != model.config.video_codec:
        sizes = f"{other.config.video_codec}; {model.name} has {model.config.video_codec}"
        raise SpecError(f"options.video_codec_of is {name!r}, with a {sizes}: use a model of the same sizes")
    model.video_codec.load_state_dict(other.video_codec.state_dict())


@torch.no_grad()
def follow_statistics(norm: nn.BatchNorm2d, latents: Tensor) -> None:
    """Move the running statistics of `norm` towards those of `latents` [b f c h w], which it has normalised."""
    mean, variance = (reduce(values, "b f c h w -> c", "mean") for values in (latents, latents**2))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # New tensors, since the gradient still needs the old ones.
    norm.running_mean = norm.running_mean + FOLLOWED * mean * (norm.running_var + norm.eps).sqrt()
    norm.running_var = norm.running_var * (1 + FOLLOWED * (variance - 1))


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
    """Set the basis to the principal components of the MDCT frames of `sound` [(b m) n].

    The scale is set so that latents have unit variance over all channels together.
    """
    channels = codec.config.latent_channels
    bins = rearrange(codec.spectrum(sound), "b l k -> (b l) k").double()
    variances, vectors = torch.linalg.eigh(bins.T @ bins / len(bins))
    spread = variances[-channels:].clamp_min(1e-12).sqrt().flip(0)
    codec.basis.copy_(vectors[:, -channels:].flip(1).T)
    whole = (spread ** (2 * (1 - WHITENING))).mean().sqrt()
    codec.scale.copy_(spread**WHITENING * whole)
