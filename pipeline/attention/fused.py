"""Sums of products and rotations, in as few kernels as a device allows.

A GPU computes `a + b * c` in one kernel, with one rounding, whatever the dtypes. A CPU rounds the product and then the
sum, as it always has, so films that are rendered on CPUs keep their bits. With gradients all devices do, and so does
code that is compiled: the compiler makes one kernel of it.

Shapes: b batch, h heads, l tokens, d head width, c its pairs of channels.
"""

import torch
from einops import rearrange
from torch import Tensor


def plus_product(base: Tensor, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """`base + x * y`, computed in the finest of the three dtypes and returned in `dtype`; `base` and `y` are broadcast
    to the shape of `x`."""
    return fused_plus_product(base, x, y, dtype) if _fuses(x) else (base + x * y).to(dtype)


def fused_plus_product(base: Tensor, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """`plus_product` in one kernel."""
    return torch.addcmul(base, x, y, out=torch.empty_like(x, dtype=dtype))


def rotated(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """`x` [b h l d] with its pairs of channels rotated, in halves: channel i together with i + d/2.

    Args:
        cos: [h l 1 c], float32 or finer.
        sin: for the first and for the second channels, [h l 2 c].
        interleaved: whether channels 2i and 2i + 1 of `x` are a pair, instead of i and i + d/2.
    """
    if _fuses(x):
        return fused_rotated(x, cos, sin, interleaved=interleaved)
    halves = _halves(x, interleaved)
    return rearrange((halves * cos + halves.flip(-2) * sin).to(x.dtype), "b h l two c -> b h l (two c)")


def fused_rotated(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """`rotated` in three kernels."""
    out, halves = torch.empty_like(x), _halves(x, interleaved)
    torch.addcmul(halves * cos, halves.flip(-2), sin, out=_halves(out, interleaved=False))
    return out


def _fuses(x: Tensor) -> bool:
    return x.device.type != "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _halves(x: Tensor, interleaved: bool) -> Tensor:
    """`x` [b h l d] as [b h l 2 c]."""
    return rearrange(x, "b h l (c two) -> b h l two c" if interleaved else "b h l (two c) -> b h l two c", two=2)
