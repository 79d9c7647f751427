"""Models that are known to render here: what they are, what they ask for, and how they may be used.

Sizes are computed: the networks are built on the `meta` device, and counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import LTX2VideoTransformer3DModel, WanTransformer3DModel

from longtake.pipeline.adapters.convert import RECIPES
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.attention.kv_plan import KVPlan, store_bytes
from longtake.pipeline.weights.licence import LICENCES

ITEM_BYTES = 2
"""Of bfloat16, in which sizes are given."""

Size = tuple[int, int]
"""Width and height in pixels."""

WAN_1_3B: Mapping[str, Any] = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
WAN_5B: Mapping[str, Any] = {
    "num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48,
}  # fmt: skip
WAN_14B: Mapping[str, Any] = {}
WAN_14B_IMAGE: Mapping[str, Any] = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
"""What differs from the defaults of diffusers' `WanTransformer3DModel`, which are those of 14B."""

LANDSCAPE: tuple[Size, ...] = ((832, 480), (1280, 720))


@dataclass(frozen=True)
class Known:
    """One model.

    Args:
        name: what a storyboard calls it, or where the checkpoint to convert is published.
        family: the networks that it is made of.
        config: of the denoiser, as far as it differs from the family's.
        denoisers: how many such networks it has.
        stride: pixels of a latent, on each side.
        recipe: of `convert.RECIPES`, for causal checkpoints that are converted first.
        sizes: of pictures that it was trained on.
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
        """How its films are made longer than a clip."""
        return "segment" if self.recipe is None else "causal"

    @property
    def licence(self) -> str:
        """Its identifier, as on its card."""
        return LICENCES[self.name]

    @property
    def num_parameters(self) -> int:
        """Of its denoisers, without text encoder and codecs."""
        counts: list[int] = [weight.numel() for weight in self._network().parameters()]
        return self.denoisers * sum(counts)

    @property
    def weights_bytes(self) -> int:
        """Of its denoisers in bfloat16."""
        return ITEM_BYTES * self.num_parameters

    def kv_bytes(self, size: Size) -> int:
        """Of the KV store for one guidance branch in bfloat16, however long the film; segments have none."""
        if self.recipe is None:
            return 0
        recipe = RECIPES[self.recipe]
        width, height = size
        sites = WanDenoiser(self._network()).sites(
            height // self.stride, width // self.stride, recipe["chunk_latents"], 0
        )
        return store_bytes(sites, KVPlan(recipe["window"], recipe["sink"]), num_branches=1, item_bytes=ITEM_BYTES)

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
    Known("tianweiy/CausVid", "Wan", WAN_1_3B, recipe="causvid", sizes=((832, 480),)),
)
"""Those with a recipe are checkpoints, for `longtake convert`; the others are opened by name."""
