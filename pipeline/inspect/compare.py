"""Comparison of two films, frame by frame and sample by sample; both are streamed.

Shapes: f frames, h height, w width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from math import log10

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from longtake.pipeline.errors import MediaError
from longtake.pipeline.inspect.windows import sound_windows
from longtake.pipeline.media.read import FrameBlock, stream_frames
from longtake.pipeline.media.sound import SoundStream, stream_sound

_LUMA = torch.tensor([0.2126, 0.7152, 0.0722])
_WINDOW, _SIGMA = 11, 1.5  # Wang et al., 2004
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BLOCK = 16


@dataclass(frozen=True)
class Comparison:
    """How similar two films are. A figure is None if both are bit-identical or if it cannot be computed.

    Args:
        frames: number of frames compared, from the start.
        extra_frames: how many more frames the other film has; below 0 it is shorter.
        equal_frames: how many of the compared frames are bit-identical.
        psnr_db: over all frames, RGB.
        worst_psnr_db, worst_frame: PSNR and number of the frame that differs most.
        ssim: mean structural similarity of luma (Wang et al., 2004).
        sound_equal: whether all samples are equal; None if one film is silent or the sample rates differ.
        sound_snr_db: this film's sound relative to the difference.
    """

    frames: int
    extra_frames: int
    equal_frames: int
    psnr_db: float | None
    worst_psnr_db: float | None
    worst_frame: int | None
    ssim: float
    sound_equal: bool | None
    sound_snr_db: float | None


def compare_films(url: str, other: str) -> Comparison:
    """Compare two films of equal size. Raises MediaError if the sizes differ or a film cannot be read."""
    errors: list[float] = []
    likeness: list[float] = []
    extra = 0
    for ours, theirs in _paired(stream_frames(url, _BLOCK), stream_frames(other, _BLOCK)):
        count = min(len(ours), len(theirs))
        extra += len(theirs) - len(ours)
        if count:
            a, b = torch.from_numpy(ours[:count]).float(), torch.from_numpy(theirs[:count]).float()
            errors += (a - b).square().mean(dim=(1, 2, 3)).tolist()
            likeness += ssim(a, b).tolist()
    sound_equal, sound_snr_db = _compare_sound(stream_sound(url), stream_sound(other))
    worst = int(np.argmax(errors)) if any(errors) else None
    return Comparison(
        frames=len(errors),
        extra_frames=extra,
        equal_frames=errors.count(0.0),
        psnr_db=_psnr_db(float(np.mean(errors))),
        worst_psnr_db=None if worst is None else _psnr_db(errors[worst]),
        worst_frame=worst,
        ssim=float(np.mean(likeness)),
        sound_equal=sound_equal,
        sound_snr_db=sound_snr_db,
    )


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity [f] of the luma of RGB frames [f h w 3] in 0..255."""
    luma = torch.stack((a @ _LUMA, b @ _LUMA))
    x, y = luma
    mean_x, mean_y, xx, yy, xy = _blurred(torch.stack((x, y, x * x, y * y, x * y)))
    spread_x, spread_y, shared = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    brightness = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * shared + _C2) / (spread_x + spread_y + _C2)
    likeness: Tensor = (brightness * structure).mean(dim=(1, 2))
    return likeness


def _blurred(pictures: Tensor) -> Tensor:
    """Pictures [k f h w] under a Gaussian window, without padding."""
    reach = torch.arange(_WINDOW) - _WINDOW // 2
    taper = torch.exp(-(reach**2) / (2 * _SIGMA**2))
    taper = taper / taper.sum()
    flat = rearrange(pictures, "k f h w -> (k f) 1 h w")
    rows = functional.conv2d(flat, rearrange(taper, "n -> 1 1 n 1"))
    both = functional.conv2d(rows, rearrange(taper, "n -> 1 1 1 n"))
    return rearrange(both, "(k f) 1 h w -> k f h w", k=len(pictures))


def _paired(
    ours: Iterator[FrameBlock], theirs: Iterator[FrameBlock]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    nothing = np.zeros((0, 0, 0, 3), dtype=np.uint8)
    for mine, yours in zip_longest(ours, theirs):
        a, b = (nothing if block is None else block.frames for block in (mine, yours))
        if len(a) and len(b) and a.shape[1:] != b.shape[1:]:
            sizes = " and ".join(f"{frames.shape[2]}x{frames.shape[1]}" for frames in (a, b))
            raise MediaError(f"the films are {sizes}; only films of equal size can be compared")
        yield a, b


def _compare_sound(ours: SoundStream | None, theirs: SoundStream | None) -> tuple[bool | None, float | None]:
    if ours is None or theirs is None or ours.rate != theirs.rate:
        return None, None
    signal = noise = 0.0
    equal = True
    streams = (sound_windows(sound.blocks, sound.rate, margin_s=0) for sound in (ours, theirs))
    for mine, yours in zip_longest(*streams):
        if mine is None or yours is None or mine.samples.shape[0] != yours.samples.shape[0]:
            equal = False
            continue
        count = min(mine.samples.shape[1], yours.samples.shape[1])
        equal = equal and mine.samples.shape == yours.samples.shape
        a, b = (window.samples[:, :count].astype(np.float64) for window in (mine, yours))
        signal, noise = signal + float(np.square(a).sum()), noise + float(np.square(a - b).sum())
    equal = equal and noise == 0
    return equal, 10 * log10(signal / noise) if signal and noise else None


def _psnr_db(error: float) -> float | None:
    return 10 * log10(255**2 / error) if error else None
