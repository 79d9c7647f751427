"""The settings that published models are sampled with, by published name, each with its source.

A film model takes its defaults from here, unless its folder says otherwise; see `resolved`. Nothing is imported that
computes, so tables and help texts can read this module.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longtake.pipeline.sampling_spec import GuidanceSpec

WAN_NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，"  # noqa: RUF001
    "画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
)
"""`sample_neg_prompt` of wan/configs/shared_config.py, in Wan2.1 and Wan2.2."""

LTX2_NEGATIVE = (
    "blurry, out of focus, overexposed, underexposed, low contrast, washed out colors, excessive noise, grainy texture,"
    " poor lighting, flickering, motion blur, distorted proportions, unnatural skin tones, deformed facial features,"
    " asymmetrical face, missing facial features, extra limbs, disfigured hands, wrong hand count, artifacts around"
    " text, inconsistent perspective, camera shake, incorrect depth of field, background too sharp, background clutter,"
    " distracting reflections, harsh shadows, inconsistent lighting direction, color banding, cartoonish rendering, 3D"
    " CGI look, unrealistic materials, uncanny valley effect, incorrect ethnicity, wrong gender, exaggerated"
    " expressions, wrong gaze direction, mismatched lip sync, silent or muted audio, distorted voice, robotic voice,"
    " echo, background noise, off-sync audio, incorrect dialogue, added dialogue, repetitive speech, jittery movement,"
    " awkward pauses, incorrect timing, unnatural transitions, inconsistent framing, tilted camera, flat lighting,"
    " inconsistent tone, cinematic oversaturation, stylized filters, or AI artifacts."
)
"""`DEFAULT_NEGATIVE_PROMPT` of packages/ltx-pipelines/src/ltx_pipelines/utils/constants.py, in LTX-2."""


@dataclass(frozen=True)
class Preset:
    """The settings of one published model.

    Args:
        name: of its repository, without the owner and "-Diffusers".
        settings: by key of `ModelDefaults`.
        source: where they are published.
        file_shift: the shift in the scheduler file of the published folder, which diffusers' pipeline uses. Another
            shift in that file is the folder's own, and wins.
    """

    name: str
    settings: Mapping[str, Any]
    source: str
    file_shift: float | None = None


def _two(high: float, low: float, shift: float) -> dict[str, Any]:
    return {"steps": 40, "guidance": high, "guidance_2": low, "shift": shift}


def ltx2_guidance(stg_block: int) -> GuidanceSpec:
    """LTX-2's guidance, of which versions differ in the block that STG perturbs."""
    return GuidanceSpec(video=3, audio=7, modality=3, stg=1, stg_blocks=(stg_block,), rescale=0.7)


PRESETS = (
    Preset(
        "Wan2.1-T2V-1.3B",
        {"steps": 50, "guidance": 6.0, "shift": 8.0},
        "Wan2.1 README, --sample_shift 8 --sample_guide_scale 6",
        3.0,
    ),
    Preset("Wan2.1-T2V-14B", {"steps": 50, "guidance": 5.0, "shift": 5.0}, "Wan2.1 generate.py", 3.0),
    Preset("Wan2.1-I2V-14B-480P", {"steps": 40, "guidance": 5.0, "shift": 3.0}, "Wan2.1 generate.py", 3.0),
    Preset("Wan2.1-I2V-14B-720P", {"steps": 40, "guidance": 5.0, "shift": 5.0}, "Wan2.1 generate.py", 5.0),
    Preset("Wan2.2-T2V-A14B", _two(4.0, 3.0, 12.0), "Wan2.2 wan/configs/wan_t2v_A14B.py", 3.0),
    Preset("Wan2.2-I2V-A14B", _two(3.5, 3.5, 5.0), "Wan2.2 wan/configs/wan_i2v_A14B.py", 3.0),
    Preset("Wan2.2-TI2V-5B", {"steps": 50, "guidance": 5.0, "shift": 5.0}, "Wan2.2 wan/configs/wan_ti2v_5B.py", 5.0),
    Preset("LTX-2", {"steps": 40, "guidance": ltx2_guidance(29)}, "LTX-2 ltx_pipelines/utils/constants.py"),
    Preset("LTX-2.3", {"steps": 30, "guidance": ltx2_guidance(28)}, "LTX-2 ltx_pipelines/utils/constants.py"),
)


def preset_of(name: str) -> Preset | None:
    """The preset of a model with this folder name; None if it is not a published one."""
    stem = name.lower().removesuffix("-diffusers")
    return next((preset for preset in PRESETS if preset.name.lower() == stem), None)


@dataclass(frozen=True)
class Settings:
    """Defaults of a model by key of `ModelDefaults`, and where each is from."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def then(self, values: Mapping[str, Any], source: str) -> "Settings":
        """These, overridden by `values` from `source`."""
        return Settings({**self.values, **values}, {**self.sources, **dict.fromkeys(values, source)})


def with_preset(settings: Settings, name: str, file_shift: float | None) -> Settings:
    """A family's settings, overridden by those of the published model `name`, if it is one.

    Args:
        file_shift: the shift in the folder's scheduler file; None if it has none.
    """
    preset = preset_of(name)
    if preset is None:
        return settings
    own_shift = file_shift is not None and preset.file_shift is not None and file_shift != preset.file_shift
    values = {key: value for key, value in preset.settings.items() if key != "shift" or not own_shift}
    return settings.then(values, f"published: {preset.source}")


# ------------------------------------------------------------------ step-distilled LoRAs


@dataclass(frozen=True)
class LoraPreset:
    """The settings of films with a step-distilled LoRA.

    Args:
        pattern: of the names of its files.
        settings: by key of `ModelDefaults`.
        source: where they are published.
    """

    pattern: str
    settings: Mapping[str, Any]
    source: str


LORA_PRESETS = (
    LoraPreset(
        r"lightx2v|wan.*(?:4[-_ ]?steps?|lightning)|causvid",
        {"steps": 4, "guidance": 1.0, "guidance_2": 1.0, "shift": 5.0},
        "lightx2v/Wan2.1-Distill-Loras and Wan2.2-Lightning: 4 steps, shift 5, no guidance",
    ),
    LoraPreset(
        r"ltx-?2.*distilled",
        {"steps": 8, "guidance": 1.0, "schedule": (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)},
        "LTX-2 ltx_pipelines/utils/constants.py: 8 sigmas, no guidance",
    ),
)


def lora_preset(files: Sequence[str]) -> LoraPreset | None:
    """The preset of the first step-distilled LoRA among these files; None if there is none."""
    named = ((preset, file.rpartition("/")[2]) for file in files for preset in LORA_PRESETS)
    return next((preset for preset, name in named if re.search(preset.pattern, name, re.IGNORECASE)), None)


# ------------------------------------------------------------------ causal weights

_FOUR_STEPS = {"steps": 4, "guidance": 1.0, "schedule": [1.0, 0.9375, 5 / 6, 0.625], "solver": "renoise"}
"""Timesteps 1000, 750, 500, 250 under shift 5: s -> 5 s / (1 + 4 s)."""


@dataclass(frozen=True)
class Recipe:
    """How causal weights were trained, and how they are sampled.

    Args:
        repository: of the weights.
        chunk_latents: latents of a chunk.
        window, sink: in chunks before the current one. Published windows are counted in latents, with the sink and the
            current chunk.
        sampling: defaults of a storyboard.
        source: where they are published.
    """

    repository: str
    chunk_latents: int
    window: int
    sink: int
    sampling: Mapping[str, Any]
    source: str

    def mark(self) -> dict[str, Any]:
        """The contents of longtake.json."""
        sizes = {"chunk_latents": self.chunk_latents, "window": self.window, "sink": self.sink}
        return {"rollout": "causal", **sizes, "sampling": dict(self.sampling)}


RECIPES: Mapping[str, Recipe] = {
    "self-forcing": Recipe(
        "gdhe17/Self-Forcing", 3, 6, 0, _FOUR_STEPS, "configs/self_forcing_dmd.yaml; attention over 21 latents"
    ),
    "longlive": Recipe(
        "Efficient-Large-Model/LongLive-1.3B",
        3,
        2,
        1,
        _FOUR_STEPS,
        "configs/longlive_inference.yaml; local_attn_size 12, sink_size 3",
    ),
    "longlive-2": Recipe(
        "Efficient-Large-Model/LongLive-2.0-5B",
        8,
        2,
        1,
        {"steps": 4, "guidance": 1.0, "schedule": "shifted", "shift": 5.0, "solver": "unipc"},
        "causal_diffusion_inference.py; chunks of 8 latents, window 32, sink 8, UniPC, shift 5",
    ),
    "causvid": Recipe(
        "tianweiy/CausVid",
        3,
        6,
        0,
        {"steps": 3, "guidance": 1.0, "schedule": [1.0, 0.757, 0.522], "solver": "renoise"},
        "configs/wan_causal_dmd.yaml; its own long films restart every 21 latents, ours go on with a window of them",
    ),
}
