"""The built-in model family: text encoder, denoiser and both codecs, with their limits for a storyboard."""

from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import nn

from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.clock import MediaClock
from longtake.pipeline.given_files import EVERY_KIND
from longtake.pipeline.models.adapted import AdaptableNetwork, detach
from longtake.pipeline.models.av_dit import AVDiT, AVDiTConfig
from longtake.pipeline.models.fingerprint import weights_fingerprint
from longtake.pipeline.models.limits import ModelDefaults, ModelLimits, SizeLimits
from longtake.pipeline.models.seeding import seeded
from longtake.pipeline.models.sound_codec import SoundCodec, SoundCodecConfig
from longtake.pipeline.models.text_encoder import ClosedVocabularyEncoder
from longtake.pipeline.models.video_codec import SPATIAL_STRIDE, TEMPORAL_STRIDE, VideoCodec, VideoCodecConfig
from longtake.pipeline.rollouts import Causal

SHAPES_VOCABULARY = (
    *("a", "on", "background"),
    *("red", "green", "blue", "yellow", "purple", "cyan"),
    *("circle", "square", "triangle"),
    *("bounces", "glides", "rests"),
    *("fast", "slow", "silently"),
    *("dark", "light"),
)
"""The words of the closed grammar in `pipeline/training/world.py`."""

SECOND_VOCABULARY = (
    *SHAPES_VOCABULARY,
    *("and", "small", "large", "comes", "goes", "passing", "each", "other"),
    *("at", "the", "left", "right", "top", "bottom"),
    *("gradient", "striped", "dotted"),
    *("while", "camera", "pans", "zooms", "as", "dims", "rises"),
)
"""The words of the grammar in `pipeline/training/second_world/captions.py`."""


@dataclass(frozen=True)
class EmbeddedModelConfig:
    """The sizes of an `EmbeddedModel`; stored with its weights.

    Args:
        name: the family's name.
        text_layers: layers of the text encoder.
        trained: whether the weights were trained, or are random and only show that the pipeline works.
        chunk_latents: video latents in one chunk.
        window: chunks of context, and `sink` chunks at a section's start that stay.
        audio_lag: how far the sound's denoising lags the picture's: at 0 they are denoised together, at 1 the sound
            starts when the picture is done. See `sampling.schedule.staggered`.
        trained_sizes: widths and heights of the pictures that it was trained on; empty if that is not known.
    """

    name: str
    trained: bool = False
    vocabulary: tuple[str, ...] = SHAPES_VOCABULARY
    text_layers: int = 1
    chunk_latents: int = 4
    window: int = 6
    sink: int = 1
    audio_lag: float = 0.0
    trained_sizes: tuple[tuple[int, int], ...] = ()
    denoiser: AVDiTConfig = field(default_factory=AVDiTConfig)
    video_codec: VideoCodecConfig = field(default_factory=VideoCodecConfig)
    sound_codec: SoundCodecConfig = field(default_factory=SoundCodecConfig)


SOUNDING_SHAPES = EmbeddedModelConfig(
    "sounding-shapes",
    window=3,
    sink=0,
    audio_lag=0.75,
    trained_sizes=((64, 64),),
    denoiser=AVDiTConfig(text_tokens=12),
)

SECOND_WORLD = EmbeddedModelConfig(
    "second-world",
    vocabulary=SECOND_VOCABULARY,
    window=3,
    sink=0,
    audio_lag=0.75,
    trained_sizes=((128, 128),),
    text_layers=2,
    denoiser=AVDiTConfig(audio_channels=64, text_tokens=36, patch=4, pooled_text=True, preconditioned=True),
    sound_codec=SoundCodecConfig(sample_rate=24_000, hop=1200, latent_channels=64, channels=2),
)

TINY = EmbeddedModelConfig(
    "tiny",
    window=3,
    denoiser=AVDiTConfig(
        video_channels=4, audio_channels=6, video_width=32, audio_width=24, text_width=16, num_heads=2, head_dim=16,
        num_layers=2,
    ),
    video_codec=VideoCodecConfig(latent_channels=4, fine_width=8, coarse_width=8),
    sound_codec=SoundCodecConfig(latent_channels=6),
)  # fmt: skip


class EmbeddedModel(nn.Module):
    """The four networks that one film needs, sized by `config`; a `protocols.FilmModel`."""

    rollout = Causal()

    def __init__(self, config: EmbeddedModelConfig) -> None:
        super().__init__()
        self.config = config
        self.name, self.trained = config.name, config.trained
        self.chunk_latents, self.audio_lag = config.chunk_latents, config.audio_lag
        self.defaults = _defaults(config)
        self.kv_plan = KVPlan(config.window, config.sink)
        self.text = ClosedVocabularyEncoder(
            config.vocabulary, config.denoiser.text_tokens, config.denoiser.text_width, config.text_layers
        )
        self.denoiser = AVDiT(config.denoiser)
        self.video_codec = VideoCodec(config.video_codec)
        self.sound_codec = SoundCodec(config.sound_codec)

    @classmethod
    def untrained(cls, config: EmbeddedModelConfig, seed: int = 0) -> "EmbeddedModel":
        """Random weights that depend only on `seed`, in any thread."""
        with seeded(seed):
            return cls(config).eval()

    def clock(self, fps: Fraction) -> MediaClock:
        """The clock of a film at `fps`: this model's strides and sample rate."""
        sound = self.config.sound_codec
        return MediaClock(fps, sound.sample_rate, TEMPORAL_STRIDE, sound.hop, audio_centre=Fraction(0))

    def fingerprint(self) -> str:
        """SHA-256 of all weights by name, without what LoRAs change."""
        detach(self.denoiser)
        return weights_fingerprint(self)

    def adaptables(self) -> dict[str, AdaptableNetwork]:
        """The denoiser, which LoRAs can change."""
        layout = {key: tuple(weight.shape) for key, weight in self.denoiser.named_parameters()}
        return {"transformer": AdaptableNetwork(layout, lambda act: act(self.denoiser))}

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's weights."""
        return next(self.denoiser.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the denoiser's weights."""
        return next(self.denoiser.parameters()).device

    @property
    def credit(self) -> str:
        """The text in a film that names the model."""
        return f"rendered by {self.name}{'' if self.trained else ', untrained weights'}"

    @property
    def limits(self) -> ModelLimits:
        """What a storyboard must keep to."""
        multiple = SPATIAL_STRIDE * self.config.denoiser.patch
        size = SizeLimits(multiple, minimum=multiple, maximum=64 * multiple)
        return ModelLimits(
            name=self.config.name,
            width=size,
            height=size,
            sample_rates=(self.config.sound_codec.sample_rate,),
            min_fps=Fraction(1),
            max_fps=Fraction(120),
            max_prompt_words=self.config.denoiser.text_tokens,
            given=EVERY_KIND,
            trained_sizes=self.config.trained_sizes,
        )

    def latent_shapes(self, width: int, height: int) -> dict[str, tuple[int, ...]]:
        """The shape of one latent by stream, for a picture of `width` x `height` pixels."""
        config = self.config
        return {
            "video": (config.video_codec.latent_channels, height // SPATIAL_STRIDE, width // SPATIAL_STRIDE),
            "audio": (config.sound_codec.latent_channels,),
        }


def _defaults(config: EmbeddedModelConfig) -> ModelDefaults:
    """The size and the rate that the model was trained on."""
    rate = config.sound_codec.sample_rate
    if not config.trained_sizes:
        return ModelDefaults(sample_rate=rate)
    width, height = config.trained_sizes[0]
    return ModelDefaults(width=width, height=height, sample_rate=rate)
