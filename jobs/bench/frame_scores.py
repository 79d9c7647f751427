"""Scores of enlarged frames against the original: PSNR, SSIM, and flicker along the motion.

Shapes: f frames, c channels, h w pixels, i j blocks.
"""

from dataclasses import dataclass
from itertools import pairwise, product
from statistics import fmean

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional

BLOCK, REACH = 8, 7
"""Size of a block in motion estimation, and the largest shift that is tried, in pixels."""

SHIFTS = sorted(product(range(-REACH, REACH + 1), repeat=2), key=lambda shift: shift[0] ** 2 + shift[1] ** 2)


@dataclass(frozen=True)
class Score:
    """Scores of one enlargement of one clip.

    Args:
        psnr_db: of RGB, mean over frames.
        ssim: of luma, mean over frames.
        warp_error: mean square change along the motion of the original.
    """

    psnr_db: float
    ssim: float
    warp_error: float


class Judge:
    """Scores enlargements of one clip against the original `truth` [f 3 h w]."""

    def __init__(self, truth: Tensor) -> None:
        self._truth = truth
        self._luma = _luma(truth)
        self._motion = [
            Motion.between(before, after) for before, after in zip(self._luma, self._luma[1:], strict=False)
        ]

    def score(self, frames: Tensor) -> Score:
        """The score of `frames` [f 3 h w], which are rounded to 8 bits first."""
        rounded = to_8_bits(frames)
        error = (rounded - self._truth).square().mean(dim=(1, 2, 3))
        luma = _luma(rounded)
        warped = [motion.warp_error(*pair) for motion, pair in zip(self._motion, pairwise(luma), strict=True)]
        return Score(float((-10 * error.log10()).mean()), float(ssim(luma, self._luma)), fmean(warped))


@dataclass(frozen=True)
class Motion:
    """Motion from one frame to the next.

    Args:
        places: the position of each pixel in the frame before, as `grid_sample` takes it [1 h w 2].
        seen: whether the original there matches within 8 grey levels [h w].
    """

    places: Tensor
    seen: Tensor

    @classmethod
    def between(cls, before: Tensor, after: Tensor) -> "Motion":
        """Estimate motion by block matching: each block of `after` [h w] takes the shift at which `before` matches it
        best, first in whole pixels, then in halves and quarters around the best."""
        shifts = _whole_shifts(before, after)
        for step in (0.5, 0.25):
            around = torch.tensor(list(product((0, -step, step), repeat=2)))
            errors = torch.stack([_block_error(_warp(before, _places(shifts + near, after)), after) for near in around])
            shifts = shifts + around[errors.argmin(dim=0)]
        places = _places(shifts, after)
        return cls(places, (_warp(before, places) - after).abs() < 8 / 255)

    def warp_error(self, before: Tensor, after: Tensor) -> float:
        """E_warp: mean square difference between `after` and the warped `before`, where the original matches."""
        return float(((_warp(before, self.places) - after).square() * self.seen).sum() / self.seen.sum())


def _whole_shifts(before: Tensor, after: Tensor) -> Tensor:
    """The best shift of each block in whole pixels [i j 2]; of equal ones the smallest."""
    height, width = after.shape
    padded = functional.pad(before[None, None], [REACH] * 4, mode="replicate")[0, 0]
    best = _block_error(before, after)
    chosen = torch.zeros_like(best, dtype=torch.long)
    for number, (y, x) in enumerate(SHIFTS):
        moved = padded[REACH + y : REACH + y + height, REACH + x : REACH + x + width]
        error = _block_error(moved, after)
        better = error < best - 1e-4
        best, chosen = torch.where(better, error, best), torch.where(better, number, chosen)
    return torch.tensor(SHIFTS, dtype=torch.float32)[chosen]


def _block_error(moved: Tensor, after: Tensor) -> Tensor:
    """Mean absolute difference in each block [i j]."""
    return functional.avg_pool2d((moved - after).abs()[None, None], BLOCK, ceil_mode=True)[0, 0]


def _places(shifts: Tensor, frame: Tensor) -> Tensor:
    """The position from which each pixel of `frame` [h w] came, given the shift of its block [i j 2]: x and y
    [1 h w 2]."""
    size = torch.tensor(frame.shape)
    moved = repeat(shifts, "i j two -> (i p) (j q) two", p=BLOCK, q=BLOCK)[: size[0], : size[1]]
    own = torch.stack(torch.meshgrid(*(torch.arange(n) for n in frame.shape), indexing="ij"), dim=-1)
    return ((own + moved + 0.5) * 2 / size - 1).flip(-1)[None]


def _warp(frame: Tensor, places: Tensor) -> Tensor:
    return functional.grid_sample(
        frame[None, None], places, mode="bicubic", padding_mode="border", align_corners=False
    )[0, 0]


def ssim(frames: Tensor, truth: Tensor) -> Tensor:
    """Mean structural similarity of luma [f h w] in 0..1, with the usual Gaussian window of 11 pixels and deviation 1.5
    (Wang et al., 2004)."""
    taps = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = (taps / taps.sum())[:, None] * (taps / taps.sum())

    def mean(x: Tensor) -> Tensor:
        return functional.conv2d(x.unsqueeze(1), window[None, None])

    a, b = mean(frames), mean(truth)
    spread_a, spread_b = mean(frames**2) - a**2, mean(truth**2) - b**2
    joint = mean(frames * truth) - a * b
    likeness = (2 * a * b + 0.01**2) * (2 * joint + 0.03**2)
    return (likeness / ((a**2 + b**2 + 0.01**2) * (spread_a + spread_b + 0.03**2))).mean()


def to_8_bits(frames: Tensor) -> Tensor:
    """Frames rounded to 8 bits, as in a file."""
    return (frames.clamp(0, 1) * 255).round() / 255


def _luma(frames: Tensor) -> Tensor:
    """BT.601 luma [f h w] of RGB [f 3 h w]."""
    return torch.einsum("f c h w, c -> f h w", frames, torch.tensor([0.299, 0.587, 0.114]))
