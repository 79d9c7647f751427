"""Training of the upscaler: enlarge clips that were reduced.

Clips of several chunks run in one pass; every chunk sees the chunks before it as through a KV store. In a share of the
steps these are hidden, so that the model also works without them and the benefit of the store can be measured.

Shapes: b clips, f frames, h w low-resolution pixels, H W high-resolution pixels, k chunks, n heads, l tokens of a
window in one chunk, d head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from longtake.pipeline.attention.context import (
    QKV,
    AttentionContext,
    ChunkCausalContext,
    ChunkLengths,
    Meeting,
    Site,
    made,
)
from longtake.pipeline.media.picture import write_png
from longtake.pipeline.models.upscaler import Upscaler
from longtake.pipeline.models.window_matching import STREAM
from longtake.pipeline.training.options import read_options
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import Batch
from longtake.pipeline.training.textures import Clip, MotionOptions, MovingPictures

SAMPLE_STEP = 10**9
"""A step beyond any training, so that these clips are held out."""

SOFT = 1e-3  # grey level below which the loss becomes quadratic (Charbonnier)


@dataclass(frozen=True)
class UpscalerOptions:
    """Options of upscaler training, in addition to `MotionOptions`.

    Args:
        chunks: number of chunks in a clip.
        patch: side of the low-resolution frames.
        hidden: share of steps in which chunks do not see each other.
        worn: share of clips that are slightly blurred and noisy before they are enlarged.
        change_weight: weight of the error's change along the motion, relative to the error itself.
    """

    chunks: int = 7
    patch: int = 30
    hidden: float = 0.15
    worn: float = 0.15
    change_weight: float = 0.1


class UpscalerTask:
    """Trains an upscaler; the steps cycle through its scales.

    Raises:
        SpecError: an option is unknown, or the photographs are not installed.
    """

    def __init__(self, spec: TrainSpec, model: Upscaler) -> None:
        self._options: UpscalerOptions
        self._options, motion = read_options(spec.options, UpscalerOptions, MotionOptions)
        self._model, self._seed = model, spec.seed
        self._pictures = MovingPictures(motion, spec.seed)
        self.objective: nn.Module = Enlarging(model, self._options)

    def draw(self, seed: int, step: int, rank: int, size: int) -> Batch:
        """One batch of clips.

        Returns:
            "truth" [b f 3 H W] and the reduced "small" [b f 3 h w]; the motion "steps" [b f 2 3], "alone" [b] where it
            holds for all pixels; "hidden", whether chunks do not see each other.
        """
        scale = self._model.scales[step % len(self._model.scales)]
        clips = [self._clip((seed, step, rank * size + index), scale) for index in range(size)]
        hidden = np.random.default_rng((seed, step)).random() < self._options.hidden
        return {
            "small": torch.stack([small for small, _ in clips]),
            "truth": torch.stack([clip.frames for _, clip in clips]),
            "steps": torch.stack([clip.steps for _, clip in clips]),
            "alone": torch.tensor([float(clip.alone) for _, clip in clips]),
            "hidden": torch.tensor(hidden),
        }

    def _clip(self, key: tuple[int, int, int], scale: int) -> tuple[Tensor, Clip]:
        options = self._options
        clip = self._pictures.draw(key, options.chunks * self._model.chunk_frames, options.patch * scale)
        rng = np.random.default_rng((*key, 1))
        worn = _worn(rng, clip.frames, scale) if rng.random() < options.worn else clip.frames
        return reduce_frames(worn, scale), clip

    def finished(self, weights: Mapping[str, Tensor]) -> Upscaler:
        """The model, marked as trained."""
        self.objective.load_state_dict(weights)
        self._model.config = replace(self._model.config, trained=True)
        return self._model

    def sample(self, model: Upscaler, folder: Path) -> None:
        """A PNG for each scale: a held-out clip enlarged bicubically, by the model, and the original."""
        for step, scale in enumerate(model.scales):
            small, clip = self._clip((self._seed, SAMPLE_STEP, step), scale)
            state = model.start(scale, *small.shape[2:])
            large = torch.cat([model(chunk, state) for chunk in torch.split(small, model.chunk_frames)])
            cubic = functional.interpolate(small, scale_factor=scale, mode="bicubic").clamp(0, 1)
            rows = rearrange(
                [x[:: model.chunk_frames] for x in (cubic, large, clip.frames)], "k f c h w -> (k h) (f w) c"
            )
            write_png((rows * 255).round().byte(), folder / f"upscaled-x{scale}.png")


class Enlarging(nn.Module):
    """The error of enlarged frames, per frame and in the change between frames."""

    def __init__(self, model: Upscaler, options: UpscalerOptions) -> None:
        super().__init__()
        self.model = model
        self._change_weight = options.change_weight
        config = model.config
        self._tokens = config.chunk_frames * config.window_pixels**2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and PSNR (dB) of a batch from `UpscalerTask.draw`."""
        small, truth = batch["small"], batch["truth"]
        f, width = small.shape[1], small.shape[-1]
        context = self._context(f // self.model.chunk_frames, bool(batch["hidden"]))
        contexts = [context] * self.model.config.attentions
        scale = truth.shape[-1] // width
        large = self.model.enlarge(small, scale, range(f), contexts)
        error = large - truth
        change = change_along(error, batch["steps"]) * batch["alone"][:, None, None, None, None]
        loss = _charbonnier(error) + self._change_weight * _charbonnier(change)
        return {"loss": loss, "psnr_db": -10 * error.detach().square().mean().log10()}

    def _context(self, chunks: int, hidden: bool) -> AttentionContext:
        frames = self.model.chunk_frames
        lengths = [
            ChunkLengths({STREAM: self._tokens}, Fraction(k * frames), Fraction((k + 1) * frames))
            for k in range(chunks)
        ]
        if hidden:
            return HiddenPastContext(lengths, ChunkCausalContext(lengths[:1], self.model.plan, self.model.rope))
        return ChunkCausalContext(lengths, self.model.plan, self.model.rope)


class HiddenPastContext(AttentionContext):
    """Attention in which every chunk sees only itself.

    Args:
        chunks: the equal chunks of the sequence.
        one: the attention of the first chunk.
    """

    def __init__(self, chunks: list[ChunkLengths], one: ChunkCausalContext) -> None:
        self._num_chunks, self._one = len(chunks), one

    @override
    def attend(self, site: Site, streams: Meeting, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        k = self._num_chunks  # positions are relative, so every chunk can use those of the first
        apart = {name: QKV(*(_split(x, k) for x in qkv if x is not None)) for name, qkv in made(streams).items()}
        first = {name: place[: len(place) // k] for name, place in positions.items()}
        seen = self._one.attend(site, apart, first)
        return {name: rearrange(x, "(b k) n l d -> b n (k l) d", k=k) for name, x in seen.items()}


def _split(x: Tensor, chunks: int) -> Tensor:
    return rearrange(x, "b n (k l) d -> (b k) n l d", k=chunks)


def change_along(x: Tensor, steps: Tensor) -> Tensor:
    """The difference between each frame of `x` [b f c h w] and the one before, warped by `steps` [b f 2 3].

    Returns [b f-1 c h w], zero for pixels that were outside the picture.
    """
    before, theta = (rearrange(part, "b f ... -> (b f) ...") for part in (x[:, :-1], steps[:, 1:].to(x.dtype)))
    grid = functional.affine_grid(theta, list(before.shape), align_corners=False)
    moved = functional.grid_sample(before, grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = (grid.abs().amax(dim=-1) <= 1).unsqueeze(1)
    change = inside * (rearrange(x[:, 1:], "b f c h w -> (b f) c h w") - moved)
    return rearrange(change, "(b f) c h w -> b f c h w", b=len(x))


def reduce_frames(frames: Tensor, scale: int) -> Tensor:
    """Reduce frames [f 3 H W] with an antialiased bicubic filter and round to 8 bits: [f 3 h w] in 0..1."""
    size = [side // scale for side in frames.shape[2:]]
    small = functional.interpolate(frames, size=size, mode="bicubic", antialias=True)
    return (small.clamp(0, 1) * 255).round() / 255


def _worn(rng: Generator, frames: Tensor, scale: int) -> Tensor:
    """Frames with slight blur, as from a lens, and noise the size of low-resolution pixels, as from compression."""
    blurred = functional.avg_pool2d(functional.pad(frames, [1] * 4, mode="replicate"), 3, 1)
    mixed = frames + float(rng.uniform(0, 0.7)) * (blurred - frames)
    shape = (len(frames), 3, *(side // scale for side in frames.shape[2:]))
    noise = torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) * float(rng.uniform(0, 3) / 255)
    return (mixed + functional.interpolate(noise, scale_factor=scale, mode="nearest")).clamp(0, 1)


def _charbonnier(x: Tensor) -> Tensor:
    return (x.square() + SOFT**2).sqrt().mean()
