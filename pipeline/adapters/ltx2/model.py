"""The LTX-2 family of film models, 2.0 and 2.3: folders of diffusers' LTX2Pipeline.

Networks are loaded on first use, so an actor holds only those that it runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from torch import nn

from longtake.pipeline.adapters.ltx2.codecs import FRAMES, LTX2SoundCodec, LTX2VideoCodec
from longtake.pipeline.adapters.ltx2.convert import NAMING
from longtake.pipeline.adapters.ltx2.denoiser import LTX2Denoiser, ropes, sites
from longtake.pipeline.adapters.ltx2.folder import LTX2Folder
from longtake.pipeline.adapters.ltx2.text import LTX2Text
from longtake.pipeline.adapters.presets import LTX2_NEGATIVE, Settings, ltx2_guidance, with_preset
from longtake.pipeline.adapters.pretrained import as_published, read_encoder, read_tokenizer
from longtake.pipeline.attention.kv_plan import KVPlan, SiteLayout
from longtake.pipeline.clock import MediaClock
from longtake.pipeline.given_files import EVERY_KIND
from longtake.pipeline.models.adapted import AdaptableNetwork
from longtake.pipeline.models.compiled import compile_blocks
from longtake.pipeline.models.lazy_loading import LazyDecoder, LazyDenoiser
from longtake.pipeline.models.limits import DynamicShift, ModelDefaults, ModelLimits, SizeLimits
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.rollouts import Causal, Continuation, Rollout
from longtake.pipeline.weights.folder import MARK, folder_fingerprint, model_name
from longtake.pipeline.weights.memory import PartBytes, part_bytes
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.tensors import check_tensors, fill, stored_dtype, without_weights

LARGEST_SIDE = 2048
CLIP_LATENTS, OVERLAP = 16, 3
"""Latents of a training clip of 121 frames, and latents of the last chunk from which the next one continues."""


def open_folder(folder: Path, load: LoadOptions) -> FilmModel:
    """Open the LTX-2 in a folder in diffusers' format; only configurations and headers of weights are read at once.

    Raises:
        WeightsError: the folder is of another family, damaged or incomplete.
    """
    found = LTX2Folder.read(folder)
    networks = {part: found.on_meta(part) for part in found.networks}
    for part, network in networks.items():
        check_tensors(network, folder / part)
    return LTX2Model(found, load, networks)


class LTX2Model:
    """A `FilmModel` of LTX-2.

    Args:
        folder: the model's folder.
        load: dtype of denoiser, text encoder and connectors, and the device; codecs keep their stored precision.
        networks: without weights, by part; they are not kept.
    """

    audio_lag = 0.0
    trained = True

    def __init__(self, folder: LTX2Folder, load: LoadOptions, networks: Mapping[str, Any]) -> None:
        self.name, self.device, mark = model_name(folder.path), load.device, folder.mark
        self._folder, self._load = folder, as_published(load, self.name, folder.path / "transformer")
        self.rollout: Rollout = Causal() if mark else Continuation(OVERLAP)
        self.kv_plan = KVPlan(mark.window, mark.sink) if mark else KVPlan(window=1, refresh_chunks=1)
        self.chunk_latents = mark.chunk_latents if mark else CLIP_LATENTS - OVERLAP
        self.text = LTX2Text(self._tokenizer, self._text_encoder, self._connectors)
        self.text.keeps_encoder = load.offload != "encoder"
        self.denoiser = LazyDenoiser(ropes(folder.transformer), self._sites, self._denoiser)
        vae, sound = LTX2VideoCodec(networks["vae"]), LTX2SoundCodec(networks["audio_vae"], networks["vocoder"])
        self.video_codec = LazyDecoder(vae.left_context, vae.lookahead, self._video_codec)
        self.sound_codec = LazyDecoder(sound.left_context, sound.lookahead, self._sound_codec)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of the denoiser's weights."""
        return self._load.dtype or stored_dtype(self._folder.path / "transformer")

    @property
    def defaults(self) -> ModelDefaults:
        """Defaults for the storyboard: of LTX-2's own code, of the folder's files, of the published model that the
        folder is named after, and of the mark of causal weights; later ones override earlier ones."""
        scheduler, mark = self._folder.scheduler, self._folder.mark
        usual = {
            "steps": 30 if self._folder.widens_sound else 40,
            "guidance": ltx2_guidance(28 if self._folder.widens_sound else 29),
            "negative": LTX2_NEGATIVE,
            "width": 768,
            "height": 512,
            "fps": Fraction(24),
            "sample_rate": self._folder.sample_rate,
        }
        files = {
            "schedule": "fixed" if scheduler.get("use_dynamic_shifting") else "shifted",
            "shift": float(scheduler.get("shift") or 1.0),
            "dynamic": DynamicShift(
                base_tokens=scheduler.get("base_image_seq_len", 1024),
                max_tokens=scheduler.get("max_image_seq_len", 4096),
                base_shift=scheduler.get("base_shift", 0.95),
                max_shift=scheduler.get("max_shift", 2.05),
                terminal=scheduler.get("shift_terminal"),
            ),
        }
        settings = Settings().then(usual, "LTX-2's own code").then(files, "scheduler_config.json of the folder")
        settings = with_preset(settings, self.name, None)
        if mark is not None:
            settings = settings.then({"guidance": 1.0, **mark.defaults}, MARK)
        return ModelDefaults(**settings.values, sources=settings.sources)

    @property
    def credit(self) -> str:
        """The credit in a film's metadata."""
        return f"rendered by {self.name}"

    @property
    def limits(self) -> ModelLimits:
        """Limits of the storyboard; positions are in seconds, so any frame rate near the trained ones works."""
        multiple = self._folder.stride * self._folder.transformer["patch_size"]
        side = SizeLimits(multiple, minimum=multiple, maximum=LARGEST_SIDE // multiple * multiple)
        rates, words = (self._folder.sample_rate,), self.text.max_tokens
        return ModelLimits(
            self.name, side, side, rates, Fraction(8), Fraction(60), max_prompt_words=words, given=EVERY_KIND
        )

    def clock(self, fps: Fraction) -> MediaClock:
        """The clock at `fps`: 8k + 1 frames, and audio latents of four mel frames.

        A section's first audio latent holds one mel frame. The last mel frame of a latent therefore lies where the
        latent would start if the first one were as long as the others.
        """
        stride = int(self._folder.sound_stride)
        centre = Fraction(-1, 4)
        return MediaClock(fps, self._folder.sample_rate, FRAMES, stride, first_latent_frames=1, audio_centre=centre)

    def latent_shapes(self, width: int, height: int) -> dict[str, tuple[int, ...]]:
        """The shape of one latent frame of each stream."""
        transformer, stride = self._folder.transformer, self._folder.stride
        channels = transformer["in_channels"] // transformer["patch_size"] ** 2
        return {
            "video": (channels, height // stride, width // stride),
            "audio": (transformer["audio_in_channels"],),
        }

    def part_bytes(self) -> dict[str, PartBytes]:
        """The bytes of its weights in memory, by part; only headers are read."""
        path, stored = self._folder.path, replace(self._load, dtype=None)
        return {
            "transformer": part_bytes(path / "transformer", self._load, "transformer_blocks"),
            **{name: part_bytes(path / name, self._load) for name in ("text_encoder", "connectors")},
            **{name: part_bytes(path / name, stored) for name in ("vae", "audio_vae", "vocoder")},
        }

    def adaptables(self) -> dict[str, AdaptableNetwork]:
        """The denoiser, which LoRAs can change."""
        layout = {key: tuple(x.shape) for key, x in self._folder.on_meta("transformer").named_parameters()}

        def when_loaded(act: Callable[[nn.Module], None]) -> None:
            self.denoiser.when_loaded(lambda denoiser: act(denoiser.ltx))

        return {"transformer": AdaptableNetwork(layout, when_loaded, NAMING.own, NAMING.original)}

    def fingerprint(self) -> str:
        """A hash of the folder's weights; checksums are cached."""
        return folder_fingerprint(self._folder.path, self._load)

    @property
    def _as_stored(self) -> LoadOptions:
        return replace(self._load, dtype=None)

    def _video_codec(self) -> LTX2VideoCodec:
        return LTX2VideoCodec(self._folder.filled("vae", self._as_stored))

    def _sound_codec(self) -> LTX2SoundCodec:
        # The vocoder is not built on `meta`, because it computes a filter that is not stored.
        built = self._folder.networks["vocoder"].from_config(self._folder.vocoder).to(self.device)
        vocoder = fill(without_weights(built), self._folder.path / "vocoder", self._as_stored)
        return LTX2SoundCodec(self._folder.filled("audio_vae", self._as_stored), vocoder)

    def _denoiser(self) -> LTX2Denoiser:
        transformer = self._folder.filled("transformer", self._load, layers="transformer_blocks")
        denoiser = LTX2Denoiser(transformer, self.text.max_tokens)
        if self._load.compile == "blocks":
            compile_blocks(denoiser.blocks)
        return denoiser

    def _sites(self, latent_height: int, latent_width: int, chunk_latents: int, chunk_audio: int) -> list[SiteLayout]:
        size = (latent_height, latent_width)
        return sites(self._folder.transformer, size, chunk_latents, chunk_audio, self.text.max_tokens)

    def _tokenizer(self) -> Any:
        return read_tokenizer(self._folder.path / "tokenizer")

    def _text_encoder(self) -> Any:
        kind = self._folder.index["text_encoder"][1]
        return read_encoder(kind, self._folder.path / "text_encoder", self._load)

    def _connectors(self) -> LTX2TextConnectors:
        connectors: LTX2TextConnectors = self._folder.filled("connectors", self._load)
        return connectors
