"""Clips for training super-resolution: a window that moves over synthetic pictures or photographs.

Nothing is downloaded. The photographs are freely licensed ones shipped inside Python packages (`PICTURES`), read as
files without importing the package; the rest is drawn. A clip pans by fractions of a pixel, and zooms and rotates a
little; in some, a second picture moves in front of the first.

Shapes: f frames, h w pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import av
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from longtake.pipeline.errors import SpecError

Array = NDArray[Any]

PICTURES = {
    "scikit-image": tuple(
        f"skimage/data/{name}"
        for name in (
            *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png"),
            *("grass.png", "gravel.png", "hubble_deep_field.jpg", "rocket.jpg"),
        )
    ),
    "scikit-learn": ("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
    "matplotlib": ("matplotlib/mpl-data/sample_data/grace_hopper.jpg",),
}
"""Files by distribution; docs/models/upscaler.md names their authors and licences."""

DRAWN_SIDE = 384
MARGIN = 4  # pixels that a cubic filter reads outside a window


@dataclass(frozen=True)
class MotionOptions:
    """Pictures and motion of clips.

    Args:
        drawn: number of synthetic pictures.
        photographs: whether to use photographs too.
        drawn_share: share of clips of synthetic pictures when photographs are used.
        still: share of clips that do not move.
        layered: share of clips with a second picture in front.
        speed: largest motion per frame, in high-resolution pixels.
    """

    drawn: int = 48
    photographs: bool = True
    drawn_share: float = 0.25
    still: float = 0.1
    layered: float = 0.2
    speed: float = 6.0


@dataclass(frozen=True)
class Clip:
    """Moving pictures.

    Args:
        frames: in 0..1 [f 3 h w].
        steps: affine map from each frame's pixels to the frame before, in the form of `affine_grid` [f 2 3].
        alone: whether the map holds for all pixels; otherwise a second picture moves in front.
    """

    frames: Tensor
    steps: Tensor
    alone: bool


class MovingPictures:
    """An endless supply of clips, each a pure function of its key."""

    def __init__(self, options: MotionOptions, seed: int) -> None:
        self._options = options
        self._drawn = [
            torch.from_numpy(draw_picture(np.random.default_rng((seed, n)), DRAWN_SIDE)) for n in range(options.drawn)
        ]
        photographs = load_photographs() if options.photographs else []
        self._photographs = [level for picture in photographs for level in _levels(picture)]
        areas = np.array([float(level.shape[1] * level.shape[2]) for level in self._photographs])
        self._shares = np.sqrt(areas) / np.sqrt(areas).sum()

    def draw(self, key: Sequence[int], num_frames: int, side: int) -> Clip:
        """A square clip of `side` pixels."""
        rng = np.random.default_rng(key)
        picture, path = self._picture(rng), _draw_path(rng, num_frames, self._options)
        window = Window.on(picture, path, side)
        frames, alone = window.show(picture), rng.random() >= self._options.layered
        if not alone:
            other = self._picture(rng)
            front = Window.on(other, _draw_path(rng, num_frames, self._options), side).show(other)
            frames = frames + _mask(rng, num_frames, side) * (front - frames)
        return Clip(_relit(rng, frames).clamp(0, 1), window.steps(), alone)

    def _picture(self, rng: Generator) -> Tensor:
        """A random picture, rotated and mirrored."""
        if not self._photographs or rng.random() < self._options.drawn_share:
            picture = self._drawn[rng.integers(len(self._drawn))]
        else:
            picture = self._photographs[rng.choice(len(self._photographs), p=self._shares)]
        turned = torch.rot90(picture, int(rng.integers(4)), (1, 2))
        return turned.flip(2) if rng.random() < 0.5 else turned


@dataclass(frozen=True)
class Path:
    """The path of a window.

    Args:
        centre: of the window, in 0..1 of the positions inside the picture [2].
        offset: displacement in pixels [f 2].
        zoom: pixels of the picture per pixel of the window [f].
        angle: radians [f].
    """

    centre: Array
    offset: Array
    zoom: Array
    angle: Array


def _draw_path(rng: Generator, num_frames: int, options: MotionOptions) -> Path:
    centre, time = rng.random(2), np.arange(num_frames)
    if rng.random() < options.still:
        return Path(centre, np.zeros((num_frames, 2)), np.ones(num_frames), np.zeros(num_frames))
    direction, speed = rng.uniform(0, 2 * np.pi), options.speed * rng.random() ** 2
    offset = time[:, None] * speed * np.array([np.sin(direction), np.cos(direction)])
    if rng.random() < 0.5:  # whole high-resolution pixels stay sharp, and are fractions of low-resolution ones
        return Path(centre, np.round(offset), np.ones(num_frames), np.zeros(num_frames))
    offset = offset + rng.normal(0, 0.3 * rng.random(), (num_frames, 2)).cumsum(0)
    zoom = rng.uniform(0.8, 1.25) * (1 + rng.normal(0, 0.004)) ** time
    return Path(centre, offset, zoom, rng.normal(0, 0.05) + rng.normal(0, 0.004) * time)


@dataclass(frozen=True)
class Window:
    """A square window that moves over a picture.

    Args:
        side: in pixels.
        centres: in the picture, (y, x) [f 2].
        turns: linear maps from window pixels, relative to the centre, to picture pixels [f 2 2].
    """

    side: int
    centres: Array
    turns: Array

    @classmethod
    def on(cls, picture: Tensor, path: Path, side: int) -> "Window":
        """The window of `side` pixels that follows `path` over `picture` [3 h w]; inside it if it is large enough."""
        size = np.array(picture.shape[1:])
        reach = path.zoom.max() * side / 2 * 1.1 + MARGIN
        span = np.maximum(size - 2 * reach, 0)
        centres = size / 2 + (path.centre - 0.5) * span + path.offset - path.offset.mean(0)
        cos, sin = path.zoom * np.cos(path.angle), path.zoom * np.sin(path.angle)
        window = cls(side, centres, np.stack((np.stack((cos, sin), -1), np.stack((-sin, cos), -1)), -2))
        if not window._straight:
            return window
        corners = np.clip(np.round(centres - side / 2), 0, size - side)  # the window stops at the picture's edge
        return replace(window, centres=corners + side / 2)

    @property
    def _straight(self) -> bool:
        return bool((self.turns == np.eye(2)).all())

    def show(self, picture: Tensor) -> Tensor:
        """The frames [f 3 side side] of the window over `picture` [3 h w]."""
        side, size = self.side, np.array(picture.shape[1:])
        if self._straight:
            corners = (self.centres - side / 2).astype(int)
            return torch.stack([picture[:, y : y + side, x : x + side] for y, x in corners])
        reach = np.abs(self.turns).sum(-1).max() * side / 2 + MARGIN
        low = np.floor(np.clip(self.centres.min(0) - reach, 0, size - 1)).astype(int)
        high = np.ceil(np.clip(self.centres.max(0) + reach, 1, size)).astype(int)
        part = picture[:, low[0] : high[0], low[1] : high[1]]
        scale = np.array(part.shape[1:])
        theta = _theta(self.turns * side / scale[:, None], (self.centres - low) * 2 / scale - 1)
        grid = functional.affine_grid(theta, [len(theta), 3, side, side], align_corners=False)
        shown = part.expand(len(grid), -1, -1, -1)
        return functional.grid_sample(shown, grid, mode="bicubic", padding_mode="reflection", align_corners=False)

    def steps(self) -> Tensor:
        """Affine maps from each frame to the one before, as for `affine_grid` [f 2 3]; identity for the first."""
        back = np.linalg.inv(np.concatenate((self.turns[:1], self.turns[:-1])))
        moved = self.centres - np.concatenate((self.centres[:1], self.centres[:-1]))
        return _theta(back @ self.turns, (back @ moved[:, :, None])[:, :, 0] * 2 / self.side)


def _theta(turns: Array, shifts: Array) -> Tensor:
    """Matrices [f 2 2] and shifts [f 2] in (y, x) order to affine maps [f 2 3] in (x, y) order."""
    both = np.concatenate((turns[:, ::-1, ::-1], shifts[:, ::-1, None]), axis=-1)
    return torch.from_numpy(np.ascontiguousarray(both, dtype=np.float32))


def _mask(rng: Generator, num_frames: int, side: int) -> Tensor:
    """A moving ellipse with a border one pixel soft: [f 1 side side]."""
    time, axes = np.arange(num_frames)[:, None], rng.uniform(0.15, 0.5, 2) * side
    centre = rng.uniform(0.2, 0.8, 2) * side + time * rng.normal(0, 1.5, 2)
    down, across = ((np.arange(side) - centre[:, axis, None]) / axes[axis] for axis in range(2))
    away = np.sqrt(down[:, :, None] ** 2 + across[:, None, :] ** 2)
    return torch.from_numpy(np.clip((1 - away) * axes.min() + 0.5, 0, 1)).float().unsqueeze(1)


def _relit(rng: Generator, clip: Tensor) -> Tensor:
    """The clip with random colours and lighting, the same in all frames."""
    clip = clip[:, torch.from_numpy(rng.permutation(3))] if rng.random() < 0.3 else clip
    clip = clip.clamp(0, 1) ** float(np.exp(rng.normal(0, 0.2)))
    return (clip - 0.5) * float(rng.uniform(0.6, 1.1)) + 0.5 + float(rng.normal(0, 0.05))


def load_photographs() -> list[Array]:
    """The photographs of `PICTURES`, each RGB in 0..1 [3 h w].

    Raises:
        SpecError: a package is not installed, or lacks a photograph.
    """
    return [_photograph(package, path) for package, paths in PICTURES.items() for path in paths]


def _photograph(package: str, path: str) -> Array:
    fix = "pip install 'longtake[training]', or set options.photographs to false"
    try:
        file = metadata.distribution(package).locate_file(path)
    except metadata.PackageNotFoundError:
        raise SpecError(f"{path} comes with {package}, which is not installed; {fix}") from None
    try:
        with av.open(str(file)) as container:
            pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
    except OSError as error:
        raise SpecError(f"{package} {metadata.version(package)} lacks {path} ({error}); {fix}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / 255


def _levels(picture: Array) -> list[Tensor]:
    """A photograph, and a smaller and sharper copy."""
    whole = torch.from_numpy(picture)
    half = functional.interpolate(whole[None], scale_factor=0.6, mode="bicubic", antialias=True)[0].clamp(0, 1)
    return [level for level in (whole, half) if min(level.shape[1:]) >= 200]


def draw_picture(rng: Generator, side: int) -> Array:
    """A synthetic picture [3 side side]: two random textures, joined along a random border."""
    textures: Sequence[Callable[[Generator, int], Array]] = (_noise, _gratings, _shapes, _strokes)
    first, second = (textures[int(rng.integers(len(textures)))](rng, side) for _ in range(2))
    share = _smooth(rng, side, 1.5)[None] > rng.normal(0, 0.5)
    picture: Array = np.clip(np.where(share, first, second), 0, 1).astype(np.float32)
    return picture


def _smooth(rng: Generator, side: int, slope: float) -> Array:
    """Noise whose amplitude falls with frequency to the power of `slope`, of unit variance [side side]."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / np.maximum(frequency, 1 / side) ** slope
    field = np.fft.irfft2(spectrum, s=(side, side))
    scaled: Array = (field - field.mean()) / field.std()
    return scaled


def _colours(rng: Generator, count: int) -> Array:
    """Random colours near grey [count 3]."""
    colours: Array = np.clip(rng.random((count, 1)) + rng.normal(0, 0.2, (count, 3)), 0, 1)
    return colours


def _between(rng: Generator, field: Array) -> Array:
    """A blend of two random colours by `field` [h w]: [3 h w]."""
    low, high = _colours(rng, 2)[:, :, None, None]
    mixed: Array = low + (high - low) * field
    return mixed


def _noise(rng: Generator, side: int) -> Array:
    """Clouds, rough or smooth, between two colours."""
    field = _smooth(rng, side, rng.uniform(0.8, 1.8)) * rng.uniform(0.1, 0.3) + 0.5
    return _between(rng, field)


def _gratings(rng: Generator, side: int) -> Array:
    """Stripes, straight or bent, hard or soft."""
    y, x = np.mgrid[:side, :side]
    angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(3), np.log(40)))
    bend = _smooth(rng, side, 2.5) * rng.uniform(0, 12)
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle) + bend) / period)
    return _between(rng, 0.5 + 0.5 * np.clip(wave * rng.uniform(0.5, 6), -1, 1))


def _shapes(rng: Generator, side: int) -> Array:
    """Overlapping ellipses and rectangles, each with a gradient."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    picture = np.broadcast_to(_colours(rng, 1)[0][:, None, None], (3, side, side)).copy()
    for colours in _colours(rng, 60).reshape(30, 2, 3):
        angle, (cy, cx), (ry, rx) = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5, 2), rng.uniform(0.01, 0.2, 2)
        across = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        down = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        norm = np.hypot(across / rx, down / ry) if rng.random() < 0.5 else np.maximum(abs(across / rx), abs(down / ry))
        cover = np.clip((1 - norm) * min(rx, ry) * side + 0.5, 0, 1)
        paint = colours[0][:, None, None] + (colours[1] - colours[0])[:, None, None] * np.clip(across / rx, -1, 1)
        picture += cover * (paint - picture)
    return picture


def _strokes(rng: Generator, side: int) -> Array:
    """Lines of small strokes that resemble writing."""
    cell = int(rng.integers(7, 24))
    count = side // cell + 1
    y, x = (axis % cell / cell for axis in np.mgrid[:side, :side])
    row, column = (axis // cell for axis in np.mgrid[:side, :side])
    cover = np.zeros((side, side))
    for _ in range(3):
        ends = rng.uniform(0.1, 0.9, (4, count, count))
        y0, x0, y1, x1 = (end[row, column] for end in ends)
        along = ((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / ((y1 - y0) ** 2 + (x1 - x0) ** 2 + 1e-6)
        along = np.clip(along, 0, 1)
        away = np.hypot(y - y0 - along * (y1 - y0), x - x0 - along * (x1 - x0)) * cell
        cover = np.maximum(cover, np.clip(rng.uniform(0.8, 1.6) - away + 0.5, 0, 1))
    cover *= rng.random((count, count))[row, column] < 0.85
    return _between(rng, cover)
