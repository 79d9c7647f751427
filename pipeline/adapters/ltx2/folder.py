"""The configuration of an LTX-2 in a folder in diffusers' format, read before any weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import transformers
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.registry import FAMILIES, same_target
from longtake.pipeline.weights.folder import read_index
from longtake.pipeline.weights.options import LoadOptions
from longtake.pipeline.weights.settings import CausalMark, read_configuration, read_mark
from longtake.pipeline.weights.tensors import fill, on_meta

PIPELINES = same_target(FAMILIES, "longtake.pipeline.adapters.ltx2.model:open_folder")
NETWORKS: Mapping[str, Any] = {
    "transformer": LTX2VideoTransformer3DModel,
    "vae": AutoencoderKLLTX2Video,
    "audio_vae": AutoencoderKLLTX2Audio,
    "connectors": LTX2TextConnectors,
}
VOCODERS: Mapping[str, Any] = {"LTX2Vocoder": LTX2Vocoder, "LTX2VocoderWithBWE": LTX2VocoderWithBWE}


@dataclass(frozen=True)
class LTX2Folder:
    """The configurations of one folder.

    Args:
        path: path of the folder.
        index: contents of model_index.json.
        transformer, vae, audio_vae, vocoder, connectors, scheduler: configurations of the parts.
        mark: the mark of causally trained weights, if any.
    """

    path: Path
    index: Mapping[str, Any]
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    audio_vae: Mapping[str, Any]
    vocoder: Mapping[str, Any]
    connectors: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    mark: CausalMark | None

    @classmethod
    def read(cls, path: Path) -> "LTX2Folder":
        """Read a folder. Raises `WeightsError` for another family and for unsupported kinds of LTX-2."""
        index = read_index(path)
        if index["_class_name"] not in PIPELINES:
            known = " or ".join(PIPELINES)
            raise WeightsError(f"{path} is a {index['_class_name']}; use a folder of {known}")
        vocoder, encoder = (str((index.get(part) or (None, None))[1]) for part in ("vocoder", "text_encoder"))
        if vocoder not in VOCODERS or not hasattr(transformers, encoder):
            raise WeightsError(
                f"{path} has the vocoder {vocoder} and the text encoder {encoder}; use a vocoder of"
                f" {' or '.join(VOCODERS)} and an encoder that transformers {transformers.__version__} supports"
            )
        networks = {**NETWORKS, "vocoder": VOCODERS[vocoder]}
        parts = {name: read_configuration(path / name / "config.json", kind) for name, kind in networks.items()}
        scheduler = read_configuration(path / "scheduler" / "scheduler_config.json", FlowMatchEulerDiscreteScheduler)
        found = cls(path=path, index=index, **parts, scheduler=scheduler, mark=read_mark(path))
        rates = found.sample_rate, found.audio_vae["sample_rate"], found.audio_vae["mel_hop_length"]
        if min(rates) <= 0:
            raise WeightsError(
                f"{path} has vocoder.output_sampling_rate {rates[0]}, audio_vae.sample_rate {rates[1]} and"
                f" audio_vae.mel_hop_length {rates[2]}; each must be at least 1, fetch the model again"
            )
        if found.transformer["patch_size_t"] != 1 or found.frames != 8 or found.sound_stride.denominator != 1:
            raise WeightsError(
                f"{path} has latents of {found.frames} frames, patches of {found.transformer['patch_size_t']} latents"
                f" and {found.sound_stride} samples per latent; use weights with 8, 1 and a whole number"
            )
        return found

    @property
    def networks(self) -> dict[str, Any]:
        """diffusers' class of each part that is a network."""
        return {**NETWORKS, "vocoder": VOCODERS[self.index["vocoder"][1]]}

    def on_meta(self, part: str) -> Any:
        """The network of a part without weights. Raises `WeightsError` if its configuration is invalid."""
        return on_meta(self.networks[part], getattr(self, part), self.path / part)

    def filled(self, part: str, load: LoadOptions, layers: str = "") -> Any:
        """The network of a part with its weights, ready to run; see `fill`."""
        return fill(self.on_meta(part), self.path / part, load, layers=layers)

    @property
    def stride(self) -> int:
        """Pixels of the picture per pixel of a latent, on each side."""
        return int(self.vae.get("spatial_compression_ratio") or self.vae["patch_size"] * 2**self._halvings)

    @property
    def frames(self) -> int:
        """Video frames per latent."""
        return int(self.vae.get("temporal_compression_ratio") or self.vae["patch_size_t"] * 2**self._halvings)

    @property
    def widens_sound(self) -> bool:
        """Whether the vocoder widens the sound's band, as that of LTX-2.3 does."""
        return bool(self.index["vocoder"][1] == "LTX2VocoderWithBWE")

    @property
    def sample_rate(self) -> int:
        """Samples per second of the sound."""
        return int(self.vocoder["output_sampling_rate"])

    @property
    def sound_stride(self) -> Fraction:
        """Samples per audio latent, which is four mel frames."""
        return Fraction(4 * self.sample_rate * self.audio_vae["mel_hop_length"], self.audio_vae["sample_rate"])

    @property
    def _halvings(self) -> int:
        scaling = self.vae["spatio_temporal_scaling"]
        return sum(scaling) if isinstance(scaling, list | tuple) else len(self.vae["layers_per_block"]) - 1
