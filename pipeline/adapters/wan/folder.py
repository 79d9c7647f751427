"""The configuration of a Wan in a folder in diffusers' format, read before any weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.registry import FAMILIES, same_target
from longtake.pipeline.weights.folder import MARK, parts_of, read_index
from longtake.pipeline.weights.settings import CausalMark, read_configuration, read_mark, read_settings

PIPELINES = same_target(FAMILIES, "longtake.pipeline.adapters.wan.model:open_folder")


@dataclass(frozen=True)
class WanFolder:
    """The configurations of one folder.

    Args:
        path: path of the folder.
        index: contents of model_index.json.
        transformer: configuration of the denoiser; of the first one if it has two.
        vae: configuration of the video autoencoder.
        scheduler: configuration of diffusers' scheduler.
        mark: the mark of causally trained weights, if any.
    """

    path: Path
    index: Mapping[str, Any]
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    mark: CausalMark | None

    @classmethod
    def read(cls, path: Path) -> "WanFolder":
        """Read a folder. Raises `WeightsError` for another family and for unsupported kinds of Wan."""
        index = read_index(path)
        if index["_class_name"] not in PIPELINES:
            known = " or ".join(PIPELINES)
            raise WeightsError(f"{path} is a {index['_class_name']}; use a folder of {known}")
        if index.get("boundary_ratio") is not None and "transformer_2" not in parts_of(index):
            raise WeightsError(
                f"{path} has boundary_ratio {index['boundary_ratio']} but no transformer_2; fetch the model again"
            )
        transformer = read_configuration(path / "transformer" / "config.json", WanTransformer3DModel)
        if transformer.get("pos_embed_seq_len") is not None:
            raise WeightsError(f"{path} needs a first and a last image; use a Wan that starts from one image")
        vae = read_configuration(path / "vae" / "config.json", AutoencoderKLWan)
        scheduler = _scheduler(path / "scheduler" / "scheduler_config.json")
        found = cls(path, index, transformer, vae, scheduler, read_mark(path))
        if found.continues_image and found.mark is not None:
            raise WeightsError(f"{path} continues an image, which needs bidirectional weights; remove {MARK} from it")
        return found

    @property
    def experts(self) -> tuple[str, ...]:
        """The subfolders of the denoisers, the one for high noise first."""
        return ("transformer",) if self.boundary is None else ("transformer", "transformer_2")

    @property
    def boundary(self) -> float | None:
        """The lowest noise level of the first of two experts; None with one."""
        boundary = self.index.get("boundary_ratio")
        return None if boundary is None else float(boundary)

    @property
    def continues_image(self) -> bool:
        """Whether the denoiser has extra input channels for an image to continue."""
        return bool(self.transformer["in_channels"] != self.transformer["out_channels"])

    @property
    def per_latent_sigmas(self) -> bool:
        """Whether every latent frame may have its own noise level, as in TI2V-5B and in causal weights."""
        return bool(self.index.get("expand_timesteps")) or self.mark is not None

    @property
    def is_high_compression(self) -> bool:
        """Whether it uses the autoencoder of Wan 2.2, as TI2V-5B does."""
        return bool(self.vae.get("is_residual"))


def _scheduler(file: Path) -> dict[str, Any]:
    kind = getattr(diffusers, str(read_settings(file).get("_class_name")), FlowMatchEulerDiscreteScheduler)
    return read_configuration(file, kind)
