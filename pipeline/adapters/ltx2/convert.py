"""Conversion of LTX-2 checkpoints to diffusers' format; their keys are those of LTX-2's own code.

Source: diffusers' `convert_ltx2_transformer_to_diffusers`, from which the table is taken; it is tested against it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from diffusers import LTX2VideoTransformer3DModel
from torch import Tensor

from longtake.pipeline.weights.lora import Naming
from longtake.pipeline.weights.tensors import check_fit

_NAMES = {
    "patchify_proj": "proj_in",
    "audio_patchify_proj": "audio_proj_in",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
"""Parts of keys of LTX-2's own code -> of diffusers."""
_INVERSE = {diffusers: ltx for ltx, diffusers in _NAMES.items()}


def is_ltx2(tensors: Iterable[str]) -> bool:
    """Whether these unwrapped keys belong to an LTX-2 denoiser, in its own naming or in diffusers'."""
    return any(key.startswith("transformer_blocks.0.audio_attn1.") for key in tensors)


def to_diffusers(key: str) -> str:
    """diffusers' name of a key of LTX-2's own code; other keys are returned unchanged."""
    return ".".join(_NAMES.get(part, part) for part in key.split("."))


def from_diffusers(layer: str) -> str:
    """The name in LTX-2's own code of a layer of diffusers."""
    return ".".join(_INVERSE.get(part, part) for part in layer.split("."))


NAMING = Naming(to_diffusers, from_diffusers)
"""The names of LTX-2's layers, for LoRAs."""


def convert_ltx2(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """diffusers' configuration and tensors of an LTX-2 denoiser.

    Args:
        tensors: unwrapped, in either naming; connectors that lie next to them are left out.
        config: of the `LTX2VideoTransformer3DModel`.
        dtype: precision of the result; by default unchanged.

    Raises:
        WeightsError: tensors are missing, left over, or their shapes do not match the configuration.
    """
    with torch.device("meta"):
        model = LTX2VideoTransformer3DModel.from_config(config)
    named = {
        to_diffusers(key): x for key, x in tensors.items() if not re.match(r"(?:audio|video)_embeddings_conn", key)
    }
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    check_fit(model, shapes, {key: tensor.shape for key, tensor in named.items()}, "the checkpoint")
    return dict(config), {key: tensor.to(dtype or tensor.dtype).contiguous() for key, tensor in named.items()}
