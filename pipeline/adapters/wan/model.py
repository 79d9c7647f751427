"""The Wan family of film models: folders of diffusers' WanPipeline and WanImageToVideoPipeline.

Networks are loaded on first use, so an actor holds only those that it runs.
"""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.embeddings import PixArtAlphaTextProjection
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from longtake.pipeline.adapters.presets import WAN_NEGATIVE, Settings, with_preset
from longtake.pipeline.adapters.pretrained import (
    as_published,
    read_encoder,
    read_image_processor,
    read_tokenizer,
)
from longtake.pipeline.adapters.wan.convert import NAMING
from longtake.pipeline.adapters.wan.denoiser import LATENT_FRAMES, WanDenoiser, rope, sites
from longtake.pipeline.adapters.wan.experts import WanExperts
from longtake.pipeline.adapters.wan.folder import WanFolder
from longtake.pipeline.adapters.wan.image import WanImage
from longtake.pipeline.adapters.wan.image_to_video import WanContinued
from longtake.pipeline.adapters.wan.text import WanText
from longtake.pipeline.adapters.wan.video_codec import WanVideoCodec
from longtake.pipeline.attention.kv_plan import KVPlan, SiteLayout
from longtake.pipeline.clock import MediaClock
from longtake.pipeline.errors import WeightsError
from longtake.pipeline.given_files import PICTURE_KINDS
from longtake.pipeline.models.adapted import AdaptableNetwork
from longtake.pipeline.models.compiled import compile_blocks
from longtake.pipeline.models.lazy_loading import LazyDecoder, LazyDenoiser
from longtake.pipeline.models.limits import ModelDefaults, ModelLimits, SizeLimits
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.models.silence import Silence
from longtake.pipeline.rollouts import Causal, Continuation, Rollout
from longtake.pipeline.weights.folder import MARK, folder_fingerprint, model_name
from longtake.pipeline.weights.memory import PartBytes, part_bytes
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.settings import read_configuration
from longtake.pipeline.weights.tensors import check_tensors, fill, on_meta, stored_dtype

SAMPLE_RATE, HOP = 16_000, 800
"""Sample rate, and samples per audio latent, of the silent track; Wan generates no sound."""

LARGEST_SIDE = 1920

TEXT_EMBEDDER = "condition_embedder.text_embedder."
_480P, _720P, _704P = ((832, 480), (480, 832)), ((1280, 720), (720, 1280)), ((1280, 704), (704, 1280))
TRAINED_SIZES = {1536: _480P, 3072: _704P, 5120: (*_480P, *_720P)}
"""Widths and heights of the pictures that the published weights were trained on (1.3B, 5B, 14B), by width of the
transformer; see the model cards of Wan 2.1 and 2.2."""

OVERLAP = 5
"""Latents of the last chunk from which bidirectional weights continue: 17 frames, about a second."""


def open_folder(folder: Path, load: LoadOptions) -> FilmModel:
    """Open the Wan in a folder in diffusers' format; only configurations and headers of weights are read at once.

    Raises:
        WeightsError: the folder is of another family, damaged or incomplete.
    """
    model = WanModel(WanFolder.read(folder), load)
    model.check_weights()
    return model


class WanModel:
    """A `FilmModel` of Wan.

    Args:
        folder: the model's folder.
        load: dtype of denoiser and text encoder, and the device; the video codec keeps its stored precision.
    """

    audio_lag = 0.0
    trained = True

    def __init__(self, folder: WanFolder, load: LoadOptions) -> None:
        self.name, self.device, mark = model_name(folder.path), load.device, folder.mark
        self._folder, self._load = folder, as_published(load, self.name, folder.path / "transformer")
        self._fps = Fraction(24 if folder.is_high_compression else 16)
        clip_latents = 31 if folder.is_high_compression else 21
        clean = folder.per_latent_sigmas or folder.continues_image
        self.rollout: Rollout = Causal() if mark else Continuation(OVERLAP, clean)
        self.kv_plan = KVPlan(mark.window, mark.sink) if mark else KVPlan(window=1, refresh_chunks=1)
        self.chunk_latents = mark.chunk_latents if mark else clip_latents - OVERLAP
        self.text = WanText(self._tokenizer, self._text_encoder, self._text_embedders)
        self.text.keeps_encoder = load.offload != "encoder"
        turns = rope(folder.transformer, float(self._fps / LATENT_FRAMES))
        self._denoisers = [LazyDenoiser(turns, self._sites, partial(self._expert, name)) for name in folder.experts]
        experts = WanExperts(self._denoisers, folder.transformer["num_layers"], folder.boundary or 0)
        self.denoiser = WanContinued(experts, self._continued_image) if folder.continues_image else experts
        vae = WanVideoCodec(self._vae())  # on `meta`
        self.video_codec = LazyDecoder(vae.left_context, vae.lookahead, self._video_codec)
        self.sound_codec = Silence(HOP)

    @cached_property
    def image(self) -> WanImage | None:
        """The image conditioning of image-to-video weights; None for others."""
        return self._continued_image() if self._folder.continues_image else None

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of the denoiser's weights."""
        return self._load.dtype or stored_dtype(self._folder.path / "transformer")

    @property
    def defaults(self) -> ModelDefaults:
        """Defaults for the storyboard: those of Wan's own code, of the folder's files, of the published model that the
        folder is named after, and of the causal mark; later ones override earlier ones."""
        folder, large = self._folder, self._folder.is_high_compression
        two, from_image = folder.boundary is not None, folder.continues_image
        published, config = "Wan's own code", "scheduler_config.json"
        usual = {
            "steps": 40 if two or from_image else 50,
            "guidance": (3.5 if from_image else 4.0) if two else 5.0,
            "guidance_2": (3.5 if from_image else 3.0) if two else None,
            "negative": WAN_NEGATIVE,
            "width": 1280 if large else 832,
            "height": 704 if large else 480,
            "fps": self._fps,
            "sample_rate": SAMPLE_RATE,
        }
        settings = Settings().then(usual, published).then({"boundary": folder.boundary}, "model_index.json")
        stated = folder.scheduler.get("flow_shift", folder.scheduler.get("shift"))
        unipc = folder.scheduler.get("_class_name") == "UniPCMultistepScheduler"
        settings = settings.then(
            {
                "shift": float(stated or 1.0),
                "solver": "unipc" if unipc else "euler",
                "schedule": "shifted" if unipc else "full",
            },
            f"{config} of the folder",
        )
        settings = with_preset(settings, self.name, stated)
        if folder.mark is not None:
            settings = settings.then(folder.mark.defaults, MARK)
        return ModelDefaults(**settings.values, sources=settings.sources)

    @property
    def credit(self) -> str:
        """The credit in a film's metadata."""
        return f"rendered by {self.name}"

    @property
    def limits(self) -> ModelLimits:
        """Limits of the storyboard; Wan has a single frame rate."""
        multiple = self._stride * self._folder.transformer["patch_size"][1]
        side = SizeLimits(multiple, minimum=multiple, maximum=LARGEST_SIDE // multiple * multiple)
        transformer = self._folder.transformer
        width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
        return ModelLimits(
            *(self.name, side, side, (SAMPLE_RATE,), self._fps, self._fps),
            trained_sizes=TRAINED_SIZES.get(width, ()),
            max_prompt_words=self.text.max_tokens,
            given=frozenset(("image", "film")) if self._folder.continues_image else PICTURE_KINDS,
            needs_picture=self._folder.continues_image,
        )

    def clock(self, fps: Fraction) -> MediaClock:
        """The clock at `fps`: 4k + 1 frames per section, and the silent track."""
        return MediaClock(fps, SAMPLE_RATE, LATENT_FRAMES, HOP, first_latent_frames=1, audio_centre=Fraction(0))

    def latent_shapes(self, width: int, height: int) -> dict[str, tuple[int, ...]]:
        """The shape of one latent frame of each stream; the audio has no channels."""
        video = (self._folder.vae["z_dim"], height // self._stride, width // self._stride)
        return {"video": video, "audio": (0,)}

    def check_weights(self) -> None:
        """Raise `WeightsError` if the tensors of a part do not fit its configuration."""
        for name in self._folder.experts:
            check_tensors(self._transformer(name), self._folder.path / name)
        check_tensors(self._umt5(), self._folder.path / "text_encoder")
        check_tensors(self._vae(), self._folder.path / "vae")

    def part_bytes(self) -> dict[str, PartBytes]:
        """The bytes of its weights in memory, by part; only headers are read."""
        path, stored = self._folder.path, replace(self._load, dtype=None)
        return {
            **{name: part_bytes(path / name, self._load, "blocks") for name in self._folder.experts},
            "text_encoder": part_bytes(path / "text_encoder", self._load),
            "vae": part_bytes(path / "vae", stored),
        }

    def adaptables(self) -> dict[str, AdaptableNetwork]:
        """The denoisers and the text projections, which LoRAs can change."""
        found = {}
        for name, denoiser in zip(self._folder.experts, self._denoisers, strict=True):
            layout = {key: tuple(x.shape) for key, x in self._transformer(name).named_parameters()}
            own = {key: shape for key, shape in layout.items() if not key.startswith(TEXT_EMBEDDER)}
            found[name] = AdaptableNetwork(own, partial(_when_loaded, denoiser), NAMING.own, NAMING.original)
        text = {key: shape for key, shape in layout.items() if key.startswith(TEXT_EMBEDDER)}
        for index, name in enumerate(self._folder.experts):
            ready = partial(self.text.when_loaded, index)
            found[name.replace("transformer", "text")] = AdaptableNetwork(text, ready, NAMING.own, NAMING.original)
        return found

    def fingerprint(self) -> str:
        """A hash of the folder's weights; checksums are cached."""
        return folder_fingerprint(self._folder.path, self._load)

    @property
    def _stride(self) -> int:
        return int(self._folder.vae.get("scale_factor_spatial", 8))

    def _vae(self) -> AutoencoderKLWan:
        return on_meta(AutoencoderKLWan, self._folder.vae, self._folder.path / "vae")

    def _transformer(self, name: str) -> WanTransformer3DModel:
        path = self._folder.path / name
        config = read_configuration(path / "config.json", WanTransformer3DModel)
        return on_meta(WanTransformer3DModel, config, path)

    def _umt5(self) -> Any:
        path = self._folder.path / "text_encoder"
        try:
            with torch.device("meta"):
                return UMT5EncoderModel(UMT5Config.from_pretrained(path, local_files_only=True))
        except (OSError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(f"{path / 'config.json'} is no valid UMT5 ({error}); fetch the model again") from error

    def _video_codec(self) -> WanVideoCodec:
        return WanVideoCodec(fill(self._vae(), self._folder.path / "vae", replace(self._load, dtype=None)))

    def _sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        del chunk_audio
        return sites(self._folder.transformer, (latent_height, latent_width), chunk_latents, self.text.max_tokens)

    def _expert(self, name: str) -> WanDenoiser:
        wan = self._transformer(name)
        fill(wan, self._folder.path / name, self._load, float32=wan._keep_in_fp32_modules, layers="blocks")
        wan.rope = nn.Identity()  # its table is on `meta`, and positions are computed
        denoiser = WanDenoiser(wan, float(self._fps / LATENT_FRAMES), self.text.max_tokens)
        if self._load.compile == "blocks":
            compile_blocks(denoiser.blocks)
        return denoiser

    def _tokenizer(self) -> Any:
        return read_tokenizer(self._folder.path / "tokenizer")

    def _text_encoder(self) -> Any:
        encoder = self._umt5()
        float32 = encoder._keep_in_fp32_modules or () if self._load.dtype == torch.float16 else ()
        fill(encoder, self._folder.path / "text_encoder", self._load, float32=float32)
        encoder.tie_weights()
        return encoder

    def _continued_image(self) -> WanImage:
        return WanImage(self.video_codec.loaded, self._clip if self._folder.transformer.get("image_dim") else None)

    def _clip(self) -> tuple[Any, Any]:
        encoder = read_encoder("CLIPVisionModel", self._folder.path / "image_encoder", replace(self._load, dtype=None))
        return read_image_processor(self._folder.path / "image_processor"), encoder

    def _text_embedders(self) -> list[nn.Module]:
        return [self._text_embedder(name) for name in self._folder.experts]

    def _text_embedder(self, name: str) -> nn.Module:
        config = self._folder.transformer
        width = config["num_attention_heads"] * config["attention_head_dim"]
        with torch.device("meta"):
            embedder: nn.Module = PixArtAlphaTextProjection(config["text_dim"], width, act_fn="gelu_tanh")
        return fill(embedder, self._folder.path / name, self._load, prefix=TEXT_EMBEDDER)


def _when_loaded(denoiser: LazyDenoiser[WanDenoiser], act: Callable[[nn.Module], None]) -> None:
    denoiser.when_loaded(lambda loaded: act(loaded.wan))
