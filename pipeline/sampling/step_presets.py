"""Published parameters of step caches, by model, and which plan `accelerate: auto` means.

Sources: the coefficients of TeaCache are those of its repository (ali-vilab/TeaCache, TeaCache4Wan2.1 and
TeaCache4LTX-Video); thresholds are those of ComfyUI-TeaCache's table.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longtake.pipeline.sampling.step_plan import Setting

AUTO = "auto"

FEW_STEPS = 8
"""At so few steps each one matters: caches save nothing that shows."""

Entries = Sequence[tuple[str, Mapping[str, Any]]]
"""Methods by name, with their parameters."""


@dataclass(frozen=True)
class StepPreset:
    """Published parameters of a method for one model.

    Args:
        method: its name in `registry.METHODS`.
        pattern: of the model's name.
        values: the parameters.
        source: where they are published.
    """

    method: str
    pattern: str
    values: Mapping[str, Any]
    source: str


def _tea(*polynomial: float, threshold: float) -> dict[str, Any]:
    return {"polynomial": polynomial, "threshold": threshold, "at": "condition", "start": 1, "stop": 1}


_TEA = "TeaCache4Wan2.1, threshold of ComfyUI-TeaCache"

STEP_PRESETS = (
    StepPreset(
        "teacache",
        r"wan2\.1-t2v-1\.3b",
        _tea(2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774, threshold=0.08),
        _TEA,
    ),
    StepPreset(
        "teacache",
        r"wan2\.1-t2v-14b",
        _tea(-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404, threshold=0.2),
        _TEA,
    ),
    StepPreset(
        "teacache",
        r"wan2\.1-i2v-14b-480p",
        _tea(-302.33167, 223.948934, -52.546397, 5.8734844, -0.201973289, threshold=0.26),
        _TEA,
    ),
    StepPreset(
        "teacache",
        r"wan2\.1-i2v-14b-720p",
        _tea(-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683, threshold=0.25),
        _TEA,
    ),
    StepPreset(
        "teacache",
        r"wan2\.2-ti2v-5b",
        _tea(1.57472669e5, -1.15702395e5, 3.10761669e4, -3.83116651e3, 221.608777, -4.81179567, threshold=0.2),
        "LightX2V's coefficients, threshold of TeaCache4Wan2.1 for 14B",
    ),
    StepPreset(
        "teacache",
        r"ltx-video|ltxv",
        {"polynomial": (21.4700694, -12.8016453, 2.31279151, 0.792487521, 0.00969274326), "threshold": 0.06}
        | {"at": "tokens"},
        "TeaCache4LTX-Video",
    ),
)


def published(method: str, model: str) -> tuple[Mapping[str, Any], str | None]:
    """Published parameters of a method for a model, and their source; nothing if there are none."""
    for preset in STEP_PRESETS:
        if preset.method == method and re.search(preset.pattern, model, re.IGNORECASE):
            return preset.values, preset.source
    return {}, None


def automatic(setting: Setting, model: str) -> tuple[Entries, str]:
    """What "auto" means, and why."""
    freeze: Entries = [("freeze", {})] if len(setting.tokens) > 1 else []
    if setting.num_steps <= FEW_STEPS:
        still = "; streams at rest are frozen" if freeze else ""
        guidance = "" if len(setting.branches) == 1 else "; guidance of 1 halves the passes if the weights allow it"
        return (
            freeze,
            f"accelerate: {setting.num_steps} steps are too few for a step cache to gain anything{still}{guidance}",
        )
    if published("teacache", model)[1] is not None:
        return [("teacache", {}), *freeze], f"accelerate: teacache with the parameters published for {model}"
    away: Entries = [("guidance-difference", {})] if len(setting.branches) > 1 else []
    return [*freeze, *away, ("taylorseer", {})], (
        f"accelerate: {model} was not calibrated, so every other step is extrapolated; longtake calibrate {model}"
        " -o plan.json measures which steps matter"
    )
