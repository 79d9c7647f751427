"""Conversion of Wan checkpoints to diffusers' format; their keys are those of Wan's own code with training's prefixes.

Self-Forcing, CausVid and LongLive publish pickles `{"generator" or "generator_ema": {"model.<key>": tensor}}`. LongLive
adds another one with a LoRA, `{"generator_lora": {"base_model.model.<layer>.lora_A.weight": tensor}}`.
Sources: keys from Wan2.1's wan/modules/model.py; wrapping and LoRA from Self-Forcing's and LongLive's inference.py.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.lora import Naming
from longtake.pipeline.weights.tensors import check_fit

HEAD_DIM = 128
"""Head width of every published Wan; a checkpoint does not state it."""

PATCH = torch.Size((1, 2, 2))
"""The patch of every published Wan."""

_WHOLE = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
}
_ATTENTION = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "norm_k_img": "norm_added_k",
}
_BLOCK: Mapping[str, str] = {
    **{f"self_attn.{wan}": f"attn1.{diffusers}" for wan, diffusers in _ATTENTION.items()},
    **{f"cross_attn.{wan}": f"attn2.{diffusers}" for wan, diffusers in _ATTENTION.items()},
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
"""Layers of Wan's own code -> layers of diffusers. Modulations are parameters outside any layer."""
_INVERSE = {diffusers: wan for table in (_WHOLE, _BLOCK) for wan, diffusers in table.items()}


def is_wan(tensors: Iterable[str]) -> bool:
    """Whether these unwrapped keys belong to a Wan, in its own naming or in diffusers'."""
    return any(key.startswith(("blocks.0.self_attn.q.weight", "blocks.0.attn1.to_q.weight")) for key in tensors)


def to_diffusers(key: str) -> str:
    """diffusers' name of a key of Wan's own code; other keys are returned unchanged."""
    if key == "head.modulation":
        return "scale_shift_table"
    layer, _, leaf = key.rpartition(".")
    match = re.fullmatch(r"(blocks\.\d+)(?:\.(.+))?", layer)
    if match is None:
        return f"{_WHOLE[layer]}.{leaf}" if layer in _WHOLE else key
    block, inner = match[1], match[2]
    if inner is None:
        return f"{block}.scale_shift_table" if leaf == "modulation" else key
    return f"{block}.{_BLOCK[inner]}.{leaf}" if inner in _BLOCK else key


def from_diffusers(layer: str) -> str:
    """The name in Wan's own code of a layer of diffusers; other names are returned unchanged."""
    match = re.fullmatch(r"(blocks\.\d+)\.(.+)", layer)
    if match is None:
        return _INVERSE.get(layer, layer)
    return f"{match[1]}.{_INVERSE.get(match[2], match[2])}"


def convert_wan(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """diffusers' configuration and tensors of a Wan denoiser.

    Args:
        tensors: unwrapped, in either naming.
        config: of the `WanTransformer3DModel`; by default inferred from the shapes, for heads 128 wide.
        dtype: precision of the result; by default unchanged.

    Raises:
        WeightsError: tensors are missing, left over, or their shapes do not match the configuration.
    """
    named = named_tensors(tensors)
    config = dict(config) if config is not None else infer_config(named)
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)
    unused = model._keys_to_ignore_on_load_unexpected or ()
    named = {key: tensor for key, tensor in named.items() if not any(word in key for word in unused)}
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    check_fit(model, shapes, {key: tensor.shape for key, tensor in named.items()}, "the checkpoint")
    return config, {key: tensor.to(dtype or tensor.dtype).contiguous() for key, tensor in named.items()}


def named_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under diffusers' keys. A patch embedding that is stored as a linear layer becomes a convolution."""
    named = {to_diffusers(key): tensor for key, tensor in tensors.items()}
    patches = named.get("patch_embedding.weight")
    if patches is not None and patches.dim() == 2 and patches.shape[1] % PATCH.numel() == 0:
        named["patch_embedding.weight"] = patches.reshape(len(patches), -1, *PATCH)
    return named


def infer_config(tensors: Mapping[str, Tensor], heads: int | None = None) -> dict[str, Any]:
    """The configuration of a denoiser with these tensors, in diffusers' naming, and with `heads` heads, by default as
    many of the usual width as fit. Raises `WeightsError` if the tensors are not a complete denoiser."""
    try:
        patch = tensors["patch_embedding.weight"].shape
        if heads is None and patch[0] % HEAD_DIM:
            raise WeightsError(
                f"the checkpoint is {patch[0]} wide, not a multiple of {HEAD_DIM}; name its model with --base MODEL"
            )
        image = tensors.get("condition_embedder.image_embedder.norm1.weight")
        return {
            "_class_name": "WanTransformer3DModel",
            "patch_size": list(patch[2:]),
            "num_attention_heads": heads or patch[0] // HEAD_DIM,
            "attention_head_dim": patch[0] // heads if heads else HEAD_DIM,
            "in_channels": patch[1],
            "out_channels": tensors["proj_out.weight"].shape[0] // patch[2:].numel(),
            "text_dim": tensors["condition_embedder.text_embedder.linear_1.weight"].shape[1],
            "freq_dim": tensors["condition_embedder.time_embedder.linear_1.weight"].shape[1],
            "ffn_dim": tensors["blocks.0.ffn.net.0.proj.weight"].shape[0],
            "num_layers": len({key.split(".")[1] for key in tensors if key.startswith("blocks.")}),
            "cross_attn_norm": "blocks.0.norm2.weight" in tensors,
            "qk_norm": "rms_norm_across_heads" if "blocks.0.attn1.norm_q.weight" in tensors else None,
            "eps": 1e-6,
            "image_dim": None if image is None else image.shape[0],
            "added_kv_proj_dim": patch[0] if "blocks.0.attn2.add_k_proj.weight" in tensors else None,
        }
    except KeyError as error:
        raise WeightsError(f"the checkpoint is not a complete Wan: it has no {error}; fetch it again") from error


NAMING = Naming(to_diffusers, from_diffusers)
"""The names of Wan's layers, for LoRAs."""
