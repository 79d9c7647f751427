"""What a folder in diffusers' format says about the LTX-2 in it, before any weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.errors import WeightsError
from pipeline.weights.folder import read_index
from pipeline.weights.settings import CausalMark, read_mark, read_settings

PIPELINES = ("LTX2Pipeline", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline")


@dataclass(frozen=True)
class LTX2Folder:
    """The configurations of one folder.

    Args:
        path: of the folder.
        index: model_index.json.
        transformer, vae, audio_vae, vocoder, connectors, scheduler: of its parts.
        mark: of weights that were trained causally.
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
        """Raises `WeightsError` for a folder of another family, or of an LTX-2 that we do not render."""
        index = read_index(path)
        if index["_class_name"] not in PIPELINES:
            known = " or ".join(PIPELINES)
            raise WeightsError(f"{path} is a {index['_class_name']}; this family renders folders of {known}")
        names = ("transformer", "vae", "audio_vae", "vocoder", "connectors")
        parts = {name: read_settings(path / name / "config.json") for name in names}
        scheduler = read_settings(path / "scheduler" / "scheduler_config.json")
        found = cls(path=path, index=index, **parts, scheduler=scheduler, mark=read_mark(path))
        if found.transformer["patch_size_t"] != 1 or found.frames != 8 or found.sound_stride.denominator != 1:
            raise WeightsError(
                f"{path} has latents of {found.frames} frames, patches of {found.transformer['patch_size_t']} latents"
                f" and {found.sound_stride} samples to a latent; use weights with 8, 1 and a whole number"
            )
        return found

    @property
    def stride(self) -> int:
        """Pixels of the picture on one side of a latent's pixel."""
        return int(self.vae.get("spatial_compression_ratio") or self.vae["patch_size"] * 2**self._halvings)

    @property
    def frames(self) -> int:
        """Of a latent."""
        return int(self.vae.get("temporal_compression_ratio") or self.vae["patch_size_t"] * 2**self._halvings)

    @property
    def sample_rate(self) -> int:
        """Of the sound."""
        return int(self.vocoder["output_sampling_rate"])

    @property
    def sound_stride(self) -> Fraction:
        """Samples of an audio latent: four mel frames."""
        return Fraction(4 * self.sample_rate * self.audio_vae["mel_hop_length"], self.audio_vae["sample_rate"])

    @property
    def _halvings(self) -> int:
        scaling = self.vae["spatio_temporal_scaling"]
        return sum(scaling) if isinstance(scaling, list) else len(self.vae["layers_per_block"]) - 1
