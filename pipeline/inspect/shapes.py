"""Detection of the shape, its colour, its background and its motion in films of the world of sounding shapes.

The background is the median of the picture's rim; the shape is what differs from it, weighted by the difference. Its
centre is a weighted mean, accurate to a small fraction of a pixel. Its outline is normalised in size and position and
compared with the outlines of the world's shapes.

Shapes: f frames, h height, w width, p patch side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from longtake.pipeline.inspect.motion import Track, follow
from longtake.pipeline.training.data import draw_frames
from longtake.pipeline.training.world import ALL_COLOURS, BACKGROUNDS, EXTENTS, SIZE, SPEEDS, Caption, Leg, Moves

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

SHAPES = tuple(EXTENTS)
_RIM = 2
_CROWD = 15  # pixels on a side of the square in which the shape is densest; odd
_REACH = 16.0  # pixels around the centre that belong to the shape; the widest reaches 13.9
_LEAST_CONTRAST = 40.0  # of 442 between black and white; the world's palest pair has 160
_LEAST_COVER = 0.15  # below it, ringing from a codec is as strong as an edge
_LEAST_AREA, _MOST_AREA = 90.0, 700.0  # square pixels; the world's shapes have 214 to 324
_LEAST_SHARE = 0.8  # least share of the foreground that belongs to one shape
_PATCH = 24
_REST_PX_S = 6.0
_SPEED_BORDER = (SPEEDS["slow"][1] + SPEEDS["fast"][0]) / 2
_LEAST_BEND = 0.8  # radians per second; the widest and slowest glide turns by 1.4
_BLOCK_FRAMES = 64  # frames per batch; more would only use more memory


@dataclass(frozen=True)
class Sightings:
    """What was detected in each frame.

    Args:
        middles: centre of the shape, pixels from the left and from the top [f 2]; NaN without a single shape.
        areas: square pixels [f].
        colours, shapes, backgrounds: indices into `ALL_COLOURS`, `SHAPES` and `BACKGROUNDS` [f]; -1 without a shape.
    """

    middles: Floats
    areas: Floats
    colours: Numbers
    shapes: Numbers
    backgrounds: Numbers

    @classmethod
    def join(cls, parts: Sequence["Sightings"]) -> "Sightings":
        """Concatenate the sightings of consecutive frames."""
        names = ("middles", "areas", "colours", "shapes", "backgrounds")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def part(self, frames: range) -> "Sightings":
        """The sightings of a range of frames."""
        span = slice(frames.start, frames.stop)
        return Sightings(
            self.middles[span], self.areas[span], self.colours[span], self.shapes[span], self.backgrounds[span]
        )

    @property
    def seen(self) -> float:
        """The share of frames that show one shape on a plain background."""
        return float(np.mean(self.shapes >= 0)) if len(self.shapes) else 0.0


@dataclass(frozen=True)
class ShapeTrack:
    """Description of a range of frames.

    Args:
        colour, shape, background: what most frames show; None if no frame shows a shape.
        motion: "bounces fast", "bounces slow", "glides" or "rests"; None if the shape is not visible for long enough.
        bounces_s: times of wall hits, ascending, accurate to about a millisecond; two for a corner.
        teleports: frames at which the shape jumps.
        speed_px_s: median speed away from hits; None if the shape is not visible for long enough.
        seen: the share of frames that show one shape on a plain background.
        sightings: the detections per frame.
    """

    colour: str | None
    shape: str | None
    background: str | None
    motion: str | None
    bounces_s: Floats
    teleports: tuple[int, ...]
    speed_px_s: float | None
    seen: float
    sightings: Sightings


def read(frames: Tensor | NDArray[np.uint8], fps: float) -> ShapeTrack:
    """Describe frames without a cut: uint8 [f h w 3], RGB."""
    sightings = detect_shapes(frames)
    return describe(sightings, follow(sightings.middles, fps), range(len(sightings.areas)), fps)


def describe(sightings: Sightings, track: Track, frames: range, fps: float) -> ShapeTrack:
    """Describe a range of frames; `sightings` and `track` are those of the whole film."""
    part = sightings.part(frames)
    speed, bend = _middle(track.speeds[frames.start : frames.stop]), _middle(track.bends[frames.start : frames.stop])
    hits = track.hits_s[(track.hits_s >= frames.start / fps) & (track.hits_s < frames.stop / fps)]
    return ShapeTrack(
        colour=_most(part.colours, tuple(ALL_COLOURS)),
        shape=_most(part.shapes, SHAPES),
        background=_most(part.backgrounds, tuple(BACKGROUNDS)),
        motion=None if speed is None else _motion(speed, abs(bend or 0.0)),
        bounces_s=hits,
        teleports=tuple(jump for jump in track.jumps if jump in frames),
        speed_px_s=speed,
        seen=part.seen,
        sightings=part,
    )


def detect_shapes(frames: Tensor | NDArray[np.uint8]) -> Sightings:
    """Detect the shape in each frame; uint8 [f h w 3], RGB."""
    film = torch.as_tensor(frames)
    starts = range(0, len(film), _BLOCK_FRAMES)
    return Sightings.join([_detect(film[start : start + _BLOCK_FRAMES].float()) for start in starts])


def _detect(frames: Tensor) -> Sightings:
    paper = _rim(frames).median(dim=1).values
    away = torch.linalg.vector_norm(frames - paper[:, None, None], dim=-1)
    contrast = _high(away.flatten(1))
    cover = (away / contrast.clamp(min=_LEAST_CONTRAST)[:, None, None]).clamp(max=1)
    cover = torch.where(cover < _LEAST_COVER, 0, cover)
    middles, own = _middles(cover)
    areas = own.sum(dim=(1, 2))
    whole = areas / cover.sum(dim=(1, 2)).clamp(min=1) >= _LEAST_SHARE
    seen = whole & (contrast > _LEAST_CONTRAST) & (areas > _LEAST_AREA) & (areas < _MOST_AREA)
    solid = (own > 0.8).unsqueeze(-1)
    ink = (frames * solid).sum(dim=(1, 2)) / solid.sum(dim=(1, 2)).clamp(min=1)
    outlines = _patches(own, middles, areas)
    shapes = (outlines[:, None] - _templates()).square().mean(dim=(2, 3)).argmin(dim=1)
    return Sightings(
        middles=torch.where(seen[:, None], middles, torch.nan).double().numpy(),
        areas=areas.double().numpy(),
        colours=_or_none(_nearest(ink, ALL_COLOURS.values()), seen),
        shapes=_or_none(shapes, seen),
        backgrounds=_or_none(_nearest(paper, BACKGROUNDS.values()), seen),
    )


def _rim(frames: Tensor) -> Tensor:
    """Pixels along the picture's borders [f n 3]."""
    sides = (frames[:, :_RIM], frames[:, -_RIM:], frames[:, :, :_RIM], frames[:, :, -_RIM:])
    return torch.cat([rearrange(side, "f h w c -> f (h w) c") for side in sides], dim=1)


def _high(values: Tensor) -> Tensor:
    """The quantile 0.98 of each row [f], as by `torch.quantile`, which would sort all values."""
    rank = torch.tensor(0.98) * (values.shape[1] - 1)
    low = int(rank)
    top = torch.topk(values, values.shape[1] - low, dim=1).values
    return torch.lerp(top[:, -1], top[:, max(-2, -top.shape[1])], rank - low)


def _middles(cover: Tensor) -> tuple[Tensor, Tensor]:
    """The shape's centre [f 2] and the cover near it [f h w].

    The densest place gives the first estimate; the mean of the cover around it refines it.
    """
    _, height, width = cover.shape
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    crowd = _crowds(cover).flatten(1).argmax(dim=1)
    middle_x, middle_y = x[crowd % width], y[crowd // width]
    own = cover
    for _ in range(3):
        away = (x - middle_x[:, None])[:, None].square() + (y - middle_y[:, None])[:, :, None].square()
        own = torch.where(away <= _REACH**2, cover, 0)
        mass = own.sum(dim=(1, 2)).clamp(min=1e-6)
        middle_x = (own.sum(dim=1) * x).sum(dim=1) / mass
        middle_y = (own.sum(dim=2) * y).sum(dim=1) / mass
    return torch.stack((middle_x, middle_y), dim=1), own


def _crowds(cover: Tensor) -> Tensor:
    """The cover in the square around each pixel [f h w], by running sums: as many operations for any size of it."""
    before, after = (_CROWD + 1) // 2, _CROWD // 2
    sums = functional.pad(cover, (before, after, before, after)).cumsum(dim=1)
    sums = (sums[:, _CROWD:] - sums[:, :-_CROWD]).cumsum(dim=2)
    return sums[:, :, _CROWD:] - sums[:, :, :-_CROWD]


def _patches(cover: Tensor, middles: Tensor, areas: Tensor) -> Tensor:
    """Covers normalised in size and position [f p p]: each side is twice the square root of the area."""
    _, height, width = cover.shape
    steps = torch.linspace(-1, 1, _PATCH) * areas.clamp(min=1).sqrt()[:, None]
    x, y = middles[:, :1] + steps, middles[:, 1:] + steps
    grid_x = rearrange(2 * x / width - 1, "f w -> f 1 w").expand(-1, _PATCH, -1)
    grid_y = rearrange(2 * y / height - 1, "f h -> f h 1").expand(-1, -1, _PATCH)
    grid = torch.stack((grid_x, grid_y), dim=-1)
    return functional.grid_sample(cover.unsqueeze(1), grid, align_corners=False).squeeze(1)


@cache
def _templates() -> Tensor:
    """The outline of each of the world's shapes [1 shapes p p], computed in the same way as those of frames."""
    centre = np.full(2, SIZE / 2)
    captions = [Caption("red", shape, "rests", "dark") for shape in SHAPES]
    still = [Moves((Leg(caption, 0.0, centre, np.zeros(2)),)) for caption in captions]
    frames = rearrange(draw_frames(still, 1)[0], "b 1 c h w -> b h w c") * 127.5 + 127.5
    away = torch.linalg.vector_norm(frames - frames[:, :1, :1], dim=-1)
    cover = away / away.amax(dim=(1, 2), keepdim=True)
    middles, own = _middles(cover)
    return _patches(own, middles, own.sum(dim=(1, 2))).unsqueeze(0)


def _nearest(colours: Tensor, palette: Iterable[tuple[int, int, int]]) -> Tensor:
    return torch.cdist(colours, torch.tensor(list(palette), dtype=torch.float32)).argmin(dim=1)


def _or_none(indices: Tensor, seen: Tensor) -> Numbers:
    return np.asarray(torch.where(seen, indices, -1).numpy())


def _most(indices: Numbers, names: Sequence[str]) -> str | None:
    votes = np.bincount(indices[indices >= 0], minlength=len(names))
    return names[int(votes.argmax())] if votes.any() else None


def _middle(values: Floats) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmedian(values))


def _motion(speed: float, bend: float) -> str:
    if speed < _REST_PX_S:
        return "rests"
    if bend > _LEAST_BEND:
        return "glides"
    return "bounces fast" if speed > _SPEED_BORDER else "bounces slow"
