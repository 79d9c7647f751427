"""The table of known models: parameters, memory and licence, as plain numbers that need no network to be built.

`tests/adapters/test_catalogue.py` compares them with the published files, and with the built-in networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from longtake.pipeline.weights.licence import LICENCES

Size = tuple[int, int]
"""Width and height in pixels."""

Parts = Mapping[str, int]
"""Number of parameters by part of a model."""


@dataclass(frozen=True)
class Known:
    """One model.

    Args:
        name: the name in a storyboard, or the repository of a checkpoint to convert.
        family: the model family.
        parts: parameters of the denoisers, the text encoder and the codecs.
        kv_bytes: by picture size in training, bytes of the KV store of one guidance branch, for films of any length;
            0 for models that render in segments, without a KV store.
        recipe: key of `presets.RECIPES` for causal checkpoints, which must be converted first.
        item_bytes: bytes per value: 2 in bfloat16, in which open weights are stated.
    """

    name: str
    family: Literal["built-in", "Wan", "LTX-2"]
    parts: Parts
    kv_bytes: Mapping[Size, int]
    recipe: str | None = None
    item_bytes: int = 2

    @property
    def rollout(self) -> str:
        """How films longer than a clip are rendered."""
        return "causal" if self.recipe is not None or self.family == "built-in" else "segment"

    @property
    def licence(self) -> str:
        """The licence's identifier, as on the model card."""
        return LICENCES.get(self.name, "apache-2.0")

    @property
    def num_parameters(self) -> int:
        """Number of parameters of all parts."""
        return sum(self.parts.values())

    @property
    def denoiser_bytes(self) -> int:
        """Bytes of the denoisers' weights, which are with the KV store in one process."""
        return self.item_bytes * self.parts["denoiser"]


_UMT5, _WAN_VAE, _WAN_22_VAE, _CLIP = 5_680_910_336, 126_892_531, 704_688_668, 630_766_080
_GEMMA, _CONNECTORS = 12_187_325_040, 1_431_475_200
_LTX2_CODECS = 1_222_479_857 + 53_248_402 + 55_592_802  # picture, sound, vocoder


def _wan(denoiser: int, codecs: int = _WAN_VAE, image_encoder: int = 0) -> Parts:
    parts = {"denoiser": denoiser, "text encoder": _UMT5, "codecs": codecs}
    return parts | ({"image encoder": image_encoder} if image_encoder else {})


_WAN_1_3B, _WAN_14B, _WAN_14B_IMAGE = 1_418_996_800, 14_288_491_584, 16_395_083_584
_NO_STORE: Mapping[Size, int] = {(832, 480): 0, (1280, 720): 0}

KNOWN = (
    Known(
        "sounding-shapes",
        "built-in",
        {"denoiser": 5_624_576, "text encoder": 202_496, "codecs": 2_110_924 + 38_448},
        {(64, 64): 3_207_168},
        item_bytes=4,
    ),
    Known(
        "second-world",
        "built-in",
        {"denoiser": 5_233_568, "text encoder": 406_912, "codecs": 2_110_924 + 153_664},
        {(128, 128): 3_428_352},
        item_bytes=4,
    ),
    Known(
        "tiny",
        "built-in",
        {"denoiser": 98_038, "text encoder": 3_872, "codecs": 41_204 + 4_806},
        {(64, 64): 244_736},
        item_bytes=4,
    ),
    Known("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan", _wan(_WAN_1_3B), {(832, 480): 0}),
    Known("Wan-AI/Wan2.1-T2V-14B-Diffusers", "Wan", _wan(_WAN_14B), _NO_STORE),
    Known("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan", _wan(_WAN_14B_IMAGE, image_encoder=_CLIP), {(832, 480): 0}),
    Known("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "Wan", _wan(_WAN_14B_IMAGE, image_encoder=_CLIP), {(1280, 720): 0}),
    Known("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "Wan", _wan(2 * _WAN_14B), _NO_STORE),
    Known("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "Wan", _wan(2 * 14_288_901_184), _NO_STORE),
    Known("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "Wan", _wan(4_999_787_712, _WAN_22_VAE), {(1280, 704): 0}),
    Known(
        "Lightricks/LTX-2",
        "LTX-2",
        {"denoiser": 18_876_174_592, "text encoder": _GEMMA + _CONNECTORS, "codecs": _LTX2_CODECS},
        {(768, 512): 0, (1280, 704): 0},
    ),
    Known("gdhe17/Self-Forcing", "Wan", _wan(_WAN_1_3B), {(832, 480): 6_132_695_040}, "self-forcing"),
    Known("Efficient-Large-Model/LongLive-1.3B", "Wan", _wan(_WAN_1_3B), {(832, 480): 3_976_151_040}, "longlive"),
    Known(
        "Efficient-Large-Model/LongLive-2.0-5B",
        "Wan",
        _wan(4_999_787_712, _WAN_22_VAE),
        {(1280, 704): 11_867_258_880},
        "longlive-2",
    ),
    Known("tianweiy/CausVid", "Wan", _wan(_WAN_1_3B), {(832, 480): 6_132_695_040}, "causvid"),
)
"""Models with a recipe are checkpoints for `longtake convert`; the others are opened by name."""
