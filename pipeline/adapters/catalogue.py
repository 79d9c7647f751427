"""The table of known models: architecture, memory and licence.

Sizes are computed by building the networks on the `meta` device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import LTX2VideoTransformer3DModel, WanTransformer3DModel

from longtake.pipeline.adapters.presets import RECIPES
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.attention.kv_plan import KVPlan, store_bytes
from longtake.pipeline.weights.licence import LICENCES

ITEM_BYTES = 2
"""Bytes per value in bfloat16, in which sizes are stated."""

Size = tuple[int, int]
"""Width and height in pixels."""

WAN_1_3B: Mapping[str, Any] = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
WAN_5B: Mapping[str, Any] = {
    "num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48,
}  # fmt: skip
WAN_14B: Mapping[str, Any] = {}
WAN_14B_IMAGE: Mapping[str, Any] = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
"""Differences from the defaults of diffusers' `WanTransformer3DModel`, which are those of 14B."""

LANDSCAPE: tuple[Size, ...] = ((832, 480), (1280, 720))


@dataclass(frozen=True)
class Known:
    """One model.

    Args:
        name: the name in a storyboard, or the repository of a checkpoint to convert.
        family: the model family.
        config: the denoiser's configuration, where it differs from the family's defaults.
        denoisers: number of such networks.
        stride: pixels per latent on each side.
        recipe: key of `presets.RECIPES` for causal checkpoints, which must be converted first.
        sizes: picture sizes in training.
    """

    name: str
    family: Literal["Wan", "LTX-2"]
    config: Mapping[str, Any] = field(default_factory=dict)
    denoisers: int = 1
    stride: int = 8
    recipe: str | None = None
    sizes: tuple[Size, ...] = LANDSCAPE

    @property
    def rollout(self) -> str:
        """How films longer than a clip are rendered."""
        return "segment" if self.recipe is None else "causal"

    @property
    def licence(self) -> str:
        """The licence's identifier, as on the model card."""
        return LICENCES[self.name]

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the denoisers, without text encoder and codecs."""
        counts: list[int] = [weight.numel() for weight in self._network().parameters()]
        return self.denoisers * sum(counts)

    def kv_bytes(self, size: Size) -> int:
        """Size of the KV store of one guidance branch in bfloat16, for films of any length; 0 without a KV cache."""
        if self.recipe is None:
            return 0
        recipe = RECIPES[self.recipe]
        width, height = size
        sites = WanDenoiser(self._network()).sites(height // self.stride, width // self.stride, recipe.chunk_latents, 0)
        return store_bytes(sites, KVPlan(recipe.window, recipe.sink), num_branches=1, item_bytes=ITEM_BYTES)

    def _network(self) -> Any:
        kinds = {"Wan": WanTransformer3DModel, "LTX-2": LTX2VideoTransformer3DModel}
        with torch.device("meta"):
            return kinds[self.family](**self.config)


KNOWN = (
    Known("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan", WAN_1_3B, sizes=((832, 480),)),
    Known("Wan-AI/Wan2.1-T2V-14B-Diffusers", "Wan", WAN_14B),
    Known("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan", WAN_14B_IMAGE, sizes=((832, 480),)),
    Known("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "Wan", WAN_14B_IMAGE, sizes=((1280, 720),)),
    Known("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "Wan", WAN_14B, denoisers=2),
    Known("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "Wan", {"in_channels": 36}, denoisers=2),
    Known("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "Wan", WAN_5B, stride=16, sizes=((1280, 704),)),
    Known("Lightricks/LTX-2", "LTX-2", stride=32, sizes=((768, 512), (1280, 704))),
    Known("gdhe17/Self-Forcing", "Wan", WAN_1_3B, recipe="self-forcing", sizes=((832, 480),)),
    Known(
        "Efficient-Large-Model/LongLive-1.3B",
        "Wan",
        WAN_1_3B,
        recipe="longlive",
        sizes=((832, 480),),
    ),
    Known("Efficient-Large-Model/LongLive-2.0-5B", "Wan", WAN_5B, stride=16, recipe="longlive-2", sizes=((1280, 704),)),
    Known("tianweiy/CausVid", "Wan", WAN_1_3B, recipe="causvid", sizes=((832, 480),)),
)
"""Models with a recipe are checkpoints for `longtake convert`; the others are opened by name."""
