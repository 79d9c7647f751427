"""PyTorch's fused attention for GPUs, with its log-sum-exp; `kernels.kernel_for` takes the fastest one proved correct.

Shapes: b batch, h heads, q queries, k keys, d head width.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

Partial = tuple[Tensor, Tensor]


def flash(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Partial:
    """FlashAttention-2 (Dao, arXiv 2307.08691), half precision; all keys are seen."""
    _refuse_mask("flash", seen)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False)
    return out, lse[:, :, : q.shape[2]]


def cudnn(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Partial:
    """cuDNN's fused attention, half precision; all keys are seen. Its LSE comes as [b h q 1]."""
    _refuse_mask("cudnn", seen)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, False, False)
    return out, lse.flatten(2)[:, :, : q.shape[2]]


def efficient(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Partial:
    """Memory-efficient attention (Rabe and Staats, arXiv 2112.05682), float32 too; all keys are seen. Its LSE is padded
    to whole blocks of 32 queries."""
    _refuse_mask("efficient", seen)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, False)
    return out, lse[:, :, : q.shape[2]]


def flex(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Partial:
    """FlexAttention (Dong et al., arXiv 2412.05496), compiled; the only one that takes masks."""

    def score(value: Tensor, b: Tensor, _h: Tensor, _q: Tensor, key: Tensor) -> Tensor:
        return value if seen is None else torch.where(seen[b, key], value, -torch.inf)

    fused: Any = _compiled_flex() if q.device.type == "cuda" else flex_attention
    out, aux = fused(q, k, v, score_mod=score, return_aux=AuxRequest(lse=True))
    return out, aux.lse


@lru_cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def _refuse_mask(name: str, seen: Tensor | None) -> None:
    if seen is not None:
        raise ValueError(f"{name} takes no mask with its log-sum-exp")


GPU_KERNELS = (flash, cudnn, efficient, flex)
"""In the order in which they are tried."""
