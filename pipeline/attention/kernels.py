"""Attention kernels that return the true log-sum-exp, and the merge of partial results.

The LSE lets attention over separate runs of keys be combined exactly: each run is attended separately, and `merge`
weighs the parts. A wrong LSE silently corrupts every merge, so each kernel is verified before use: `prove` compares it
with the reference, attention by matrix products. PyTorch's CPU flash kernel has two traps, measured on 2.11: it dies
with SIGFPE on zero keys, zero queries or zero heads, so empty calls never reach it; and if a mask hides all keys, it
returns an LSE of 0.

Kernels take a mask of keys only. Spans and blocks (`mask.py`) become runs of keys before a kernel is called.

Shapes: b batch, h heads, q queries, k keys, d head width.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from longtake.pipeline.attention.fused import plus_product
from longtake.pipeline.attention.gpu_kernels import GPU_KERNELS
from longtake.pipeline.errors import KernelError

Partial = tuple[Tensor, Tensor]
"""Attention output [b h q d] and its log-sum-exp [b h q]; a query without keys has output 0 and LSE -inf."""

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Partial]
"""(q [b h q d], k [b h k d], v [b h k d], seen) -> Partial, scaled by d**-0.5. `seen` is bool [b k]: which keys count;
None if all do. Never called without queries or keys."""


TIMED = (12, 4096, 16_384)
"""Heads, queries and keys with which kernels are timed: about a causal Wan 1.3B."""
CLEARLY = 1.25
"""How many times faster a kernel must be than one before it to be chosen."""


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Partial:
    """Attention of every query over every key that is seen, by the kernel for the device; see `Kernel`."""
    if q.numel() == 0 or k.numel() == 0:
        return torch.zeros_like(q), q.new_full(q.shape[:3], -torch.inf, dtype=lse_dtype(q))
    if q.requires_grad or k.requires_grad or v.requires_grad:
        return matmul_attention(q, k, v, seen)
    return kernel_for(q.device.type, q.dtype, q.shape[-1], seen is not None)(q, k, v, seen)


def attend_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over all keys at once, so that no log-sum-exp is needed: 2.5 times faster in training."""
    if not (q.requires_grad or k.requires_grad or v.requires_grad):
        return attend(q, k, v)[0]
    weights: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
    return weights @ v


def matmul_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Partial:
    """Attention by matrix products, for any device, with gradients; on a CPU 1.6 times faster to train than flash."""
    scores = (q @ k.transpose(-1, -2)).to(lse_dtype(q)) * q.shape[-1] ** -0.5
    if seen is not None:
        scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse.unsqueeze(-1)).exp()
    if seen is not None:
        weights = weights.masked_fill(~seen[:, None, None], 0.0)
    return weights.to(v.dtype) @ v, lse


def cpu_flash(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Partial:
    """PyTorch's flash attention for CPUs."""
    if seen is None:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False)
        return out, lse
    bias = torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, -torch.inf)[:, None, None]
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=bias)
    return out, lse.masked_fill(~seen.any(dim=-1)[:, None, None], -torch.inf)


@lru_cache
def kernel_for(device: str, dtype: torch.dtype, head_dim: int, masked: bool = False) -> Kernel:
    """The kernel for attention without gradients: on a GPU the fastest of `GPU_KERNELS` that proves itself there. Its
    name belongs to a film's numerics."""
    if device == "cpu":
        return cpu_flash
    candidates: Sequence[Kernel] = GPU_KERNELS if device == "cuda" else ()
    proven = [kernel for kernel in candidates if _is_proven(kernel, device, dtype, head_dim, masked)]
    return fastest(proven, partial(timed, device=device, dtype=dtype, head_dim=head_dim, masked=masked))


def fastest(proven: Sequence[Kernel], seconds: Callable[[Kernel], float]) -> Kernel:
    """The kernel that takes the fewest `seconds`; an earlier one stays unless a later one is clearly faster, so that
    all processes choose the same. `matmul_attention` if there is none."""
    if len(proven) < 2:
        return proven[0] if proven else matmul_attention
    chosen, least = proven[0], seconds(proven[0])
    for kernel in proven[1:]:
        needed = seconds(kernel)
        if CLEARLY * needed < least:
            chosen, least = kernel, needed
    return chosen


def timed(kernel: Kernel, *, device: str, dtype: torch.dtype, head_dim: int, masked: bool) -> float:
    """Seconds that `kernel` takes on a GPU for a chunk's queries over a window of keys, the least of some runs."""
    heads, queries, keys = TIMED
    q, k, v = (torch.randn(1, heads, n, head_dim, device=device).to(dtype) for n in (queries, keys, keys))
    seen = torch.ones(1, keys, dtype=torch.bool, device=device) if masked else None
    found: list[float] = []
    for _ in range(5):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        kernel(q, k, v, seen)
        stop.record()
        stop.synchronize()
        found.append(start.elapsed_time(stop) / 1000)
    return min(found)


def _is_proven(kernel: Kernel, device: str, dtype: torch.dtype, head_dim: int, masked: bool) -> bool:
    try:
        prove(kernel, device, dtype, head_dim, masked)
    except KernelError:
        return False
    return True


def prove(kernel: Kernel, device: str, dtype: torch.dtype, head_dim: int, masked: bool = False) -> None:
    """Raise `KernelError` unless `kernel` runs, and gives the output and LSE of the reference in float64.

    Args:
        masked: whether it must also leave out keys that are not seen.
    """
    name = getattr(kernel, "__name__", repr(kernel))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((2, 3, n, head_dim), generator=generator).to(dtype) for n in (37, 150, 150))
    seen = torch.rand(2, 150, generator=generator) < 0.7 if masked else None
    expected = matmul_attention(q.double(), k.double(), v.double(), seen)
    try:
        got = kernel(q.to(device), k.to(device), v.to(device), None if seen is None else seen.to(device))
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KernelError(f"attention kernel {name} does not run on {device} with {dtype}: {reason}") from error
    for what, one, other in zip(("an output", "a log-sum-exp"), got, expected, strict=True):
        if one.shape != other.shape:
            raise KernelError(
                f"attention kernel {name} returns {what} of {list(one.shape)}, not {list(other.shape)}; use another"
            )
        away = float((one.cpu().double() - other).abs().max().nan_to_num(torch.inf))
        if away > 8 * torch.finfo(dtype).eps ** 0.75:
            raise KernelError(
                f"attention kernel {name} returns {what} that is {away:.1e} from the true one, on {device} with"
                f" {dtype}; parts could not be merged, so use another"
            )


def merge(parts: Sequence[Partial]) -> Partial:
    """Attention over the union of the parts' keys (Liu et al., Ring Attention, arXiv 2310.01889)."""
    if len(parts) == 1:
        return parts[0]
    outs, lses = zip(*parts, strict=True)
    stacked = torch.stack(lses)
    lse = stacked.logsumexp(dim=0)
    weights = torch.where(stacked == -torch.inf, 0.0, (stacked - lse).exp())
    *others, last = zip(outs, weights.unsqueeze(-1), strict=True)
    out = others[0][0] * others[0][1]
    for other, weight in others[1:]:
        out = plus_product(out, other, weight, out.dtype)
    return plus_product(out, *last, outs[0].dtype), lse


def lse_dtype(q: Tensor) -> torch.dtype:
    """The dtype of a log-sum-exp over keys and queries like `q`: float32 or finer."""
    return torch.promote_types(q.dtype, torch.float32)
