"""FlashVSR's sparse self-attention: a window of tokens sees those nearby windows that have the highest scores.

This is a reference in plain PyTorch: windows are chosen as published, then attention over them is exact. A kernel that
skips the other windows would give the same result faster.

It is not a policy of `pipeline/attention/`, whose spans of pages are known from the plan before a pass. Here the
visible windows depend on the queries and keys of the pass, and each head chooses its own.

Source: Zhuang et al., FlashVSR (arXiv 2510.12747), locality-constrained sparse attention.

Shapes: b batch, n heads, l tokens, k head width, d width, f latent frames, h w token rows and columns; u units of two
latent frames, r c rows and columns of windows, t p q tokens of a window; x query windows, y key windows.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional

UNIT_LATENTS = 2
WINDOW = 8
WINDOW_TOKENS = UNIT_LATENTS * WINDOW**2
PIXELS_OF_WINDOW = 128**2
PIXELS_OF_TRAINING = 768 * 1280


def to_windows(tokens: Tensor) -> Tensor:
    """Tokens [f h w d] in the order of attention, window after window, [l d]."""
    pattern = "(u t) (r p) (c q) d -> (u r c t p q) d"
    return rearrange(tokens, pattern, t=UNIT_LATENTS, p=WINDOW, q=WINDOW)


def from_windows(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `to_windows`: [l d] to [f h w d]; `grid` is the rows and columns of windows."""
    pattern = "(u r c t p q) d -> (u t) (r p) (c q) d"
    return rearrange(tokens, pattern, r=grid[0], c=grid[1], t=UNIT_LATENTS, p=WINDOW, q=WINDOW)


class Attend(Protocol):
    """Self-attention over rotated queries and keys in the order of `to_windows`, the oldest unit first."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        """The output [b n l k] of the queries; `grid` is the rows and columns of windows in a frame."""
        ...


def attend_densely(q: Tensor, k: Tensor, v: Tensor, _: tuple[int, int]) -> Tensor:
    """Every token sees all keys. FlashVSR was not trained for that: smoother, and slower on large frames."""
    return functional.scaled_dot_product_attention(q, k, v)


@dataclass(frozen=True)
class BlockSparseAttention:
    """Each unit keeps a budget of pairs of windows, chosen by the scores of their mean query and mean key.

    The windows of a unit share the budget, so splitting a frame into tiles would change the result.

    Args:
        ratio: the budget of a unit, as a multiple of the squared number of windows of a frame at 768 x 1280, where the
            model was trained. In larger frames a window sees as many windows as there, not the same share.
            Published: 1.5 or 2.
        local_range: side of the square of windows around its own that a window may see. Published: 9 (sharper) or 11.
    """

    ratio: float = 2.0
    local_range: int = 11

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        """The output [1 n l k] of the queries, as `Attend` defines it. A window that sees no other gives zeros."""
        visible = self.visible(q, k, grid)
        windows = torch.split(q, WINDOW_TOKENS, dim=2)
        out = [_attend_under(window, k, v, visible[:, x]) for x, window in enumerate(windows)]
        return torch.cat(out, dim=2)

    def visible(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> Tensor:
        """Which key windows each query window sees, [n x y], for queries and keys [1 n l k]."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        means = (reduce(tokens, "1 n (x t) k -> n x k", "mean", t=WINDOW_TOKENS) for tokens in (q, k))
        mean_q, mean_k = (mean.to(dtype) for mean in means)
        scores = mean_q @ mean_k.transpose(-1, -2) * q.shape[-1] ** -0.5
        near, windows = self._near(grid).to(q.device), grid[0] * grid[1]
        near = near.repeat(scores.shape[1] // windows, scores.shape[2] // windows)
        shares = scores.masked_fill(~near, -torch.inf).softmax(dim=-1)
        shares = rearrange(shares, "n (u x) y -> n u (x y)", x=windows)
        budget = int(windows**2 * (self.ratio * PIXELS_OF_TRAINING / (windows * PIXELS_OF_WINDOW))) - 1
        least = shares.topk(min(budget, shares.shape[-1] - 1) + 1, dim=-1).values[..., -1:]
        chosen: Tensor = rearrange(shares > least, "n u (x y) -> n (u x) y", x=windows)
        return chosen

    def _near(self, grid: tuple[int, int]) -> Tensor:
        """Which windows of a frame are near enough to see each other, [r*c r*c]."""
        cells = torch.cartesian_prod(*(torch.arange(size) for size in grid))
        offset = cells.unsqueeze(0) - cells.unsqueeze(1) + self.local_range // 2
        return ((offset >= 0) & (offset < self.local_range)).all(dim=-1)


def _attend_under(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Attention of one window's queries [1 n t k] over the tokens of the `visible` key windows [n y]."""
    mask = rearrange(visible.repeat_interleave(WINDOW_TOKENS, dim=1), "n l -> 1 n 1 l")
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.masked_fill(~mask.any(dim=-1, keepdim=True), 0)
