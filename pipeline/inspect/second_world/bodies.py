"""The shapes of films of the second world: colour, shape, size, cover by pixel and path.

Grounds are grey, so the colour of a pixel, its differences of red and blue from green, is a sum of the
colours of the shapes that cover it. Their shares are the covers, by colour, which keeps identities through a crossing.
The centre of a shape that is wholly visible is the mean of its cover. A shape that is partly hidden, by the other or by
a wall, is found by its outline, from the pixels in which it would be visible.

Shapes: f frames, b bodies, h w pixels, s a side of the square around a shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.second_world.ground import View
from longtake.pipeline.training.second_world.captions import COLOURS, SHAPES, SIZES
from longtake.pipeline.training.second_world.moves import SIZE, Floats
from longtake.pipeline.training.second_world.pictures import DISTANCES, Pixels
from longtake.pipeline.training.world import EXTENTS

_PALE = 45.0  # a pixel of less colour tells no hue; purple in the dimmest light has 82
_LEAST_SHARE = 0.015  # of all coloured pixels of a film, for a colour to be that of a shape
_COMPLEMENTARY = -0.95  # largest cosine of the angle between complementary colours
_LEAST_COVER = 0.12  # below it, ringing from a codec is as strong as an edge
_WHOLE, _HIDDEN = 0.965, 0.2  # visible share of a shape's area: above it is wholly visible, below it hidden
_SIDE, _MOST_SHIFT = 112, 24
_NUM_SAMPLES = 5


@dataclass(frozen=True)
class SeenBody:
    """A shape: its names in the grammar, visible cover [f h w], and centre in units [f 2], NaN where it is hidden."""

    colour: str
    shape: str
    size: str
    cover: Pixels
    path: Floats


def read_bodies(frames: NDArray[np.uint8], view: View) -> tuple[SeenBody, ...]:
    """Read at most two shapes from RGB frames [f h w 3] of one shot; the one with most pixels first."""
    green = frames[..., 1].astype(np.float32)
    chroma = np.stack((frames[..., 0] - green, frames[..., 2] - green))
    colours = _colours(chroma)
    covers = _covers(chroma, colours)
    return tuple(
        _read(colour, covers[number], np.delete(covers, number, axis=0).sum(axis=0), view)
        for number, colour in enumerate(colours)
    )


def _palette(names: Sequence[str]) -> Pixels:
    """Red and blue minus green of colours [c 2]."""
    return np.array([(red - green, blue - green) for red, green, blue in (COLOURS[name] for name in names)], np.float32)


def _colours(chroma: Pixels) -> list[str]:
    strength = np.hypot(*chroma)
    vivid = strength > _PALE
    palette = _palette(tuple(COLOURS))
    palette = palette / np.hypot(*palette.T)[:, None]
    hues = (palette @ (chroma[:, vivid] / strength[vivid])).argmax(axis=0)
    counts = np.bincount(hues, minlength=len(COLOURS))
    most = np.argsort(-counts)[:2]
    names = tuple(COLOURS)
    return [names[hue] for hue in most.tolist() if counts[hue] > max(60, _LEAST_SHARE * counts.sum())]


def _covers(chroma: Pixels, colours: Sequence[str]) -> Pixels:
    """The cover of each colour [b f h w], 0..1: the shares of the colours, over the light of the frame."""
    if not colours:
        return np.zeros((0, *chroma.shape[1:]), np.float32)
    shares = np.tensordot(_unmixing(_palette(colours)), chroma, axes=1)
    covers = np.empty(shares.shape, np.float32)
    for frame in range(shares.shape[1]):
        part = shares[:, frame]
        solid = part[part > 0.6 * part.max()]
        light = float(np.median(solid)) if part.max() > 0.25 else 1.0
        covers[:, frame] = np.clip(part / light, 0, 1)
    covers[covers < _LEAST_COVER] = 0
    return covers


def _unmixing(palette: Pixels) -> Pixels:
    """The matrix [c 2] from colour to shares of a palette [c 2].

    A mixture of complementary colours, such as red and cyan, is as grey as the ground; noise would decide between them.
    Each pixel is then given to one of the two.
    """
    lengths = np.hypot(*palette.T)[:, None]
    if len(palette) == 2 and np.dot(*(palette / lengths)) < _COMPLEMENTARY:
        return np.asarray(palette / lengths**2)
    return np.asarray(np.linalg.pinv(palette.T))


def _read(colour: str, cover: Pixels, others: Pixels, view: View) -> SeenBody:
    areas = cover.sum(axis=(1, 2), dtype=np.float64) / view.scale**2
    pixels = np.arange(SIZE) + 0.5
    mass = np.maximum(cover.sum(axis=(1, 2), dtype=np.float64), 1e-6)[:, None]
    middles = np.stack((cover.sum(axis=1) @ pixels, cover.sum(axis=2) @ pixels), axis=1) / mass
    shape, size = _outline(cover, middles, areas, view)
    whole_area = _area(shape, SIZES[size])
    is_whole = np.abs(areas / whole_area - 1) < 1 - _WHOLE
    is_whole &= _apart(cover, others)
    centres = middles - np.stack((0 * areas, _centroid(shape) * SIZES[size] * view.scale), axis=1)
    for frame in np.flatnonzero(~is_whole).tolist():
        if areas[frame] < _HIDDEN * whole_area:
            centres[frame] = np.nan
            continue
        free = _room(view, frame) & (others[frame] == 0)
        matched = _match(cover[frame], free, middles[frame], shape, SIZES[size] * float(view.scale[frame]))
        centres[frame] = matched.centre
    return SeenBody(colour, shape, size, cover, view.units(centres))


def _apart(cover: Pixels, others: Pixels) -> NDArray[np.bool_]:
    """Whether a shape touches no other in each frame [f]."""
    near = others > 0
    near = near | np.roll(near, 1, 1) | np.roll(near, -1, 1) | np.roll(near, 1, 2) | np.roll(near, -1, 2)
    return np.asarray(~(near & (cover > 0)).any(axis=(1, 2)))


def _outline(cover: Pixels, middles: Floats, areas: Floats, view: View) -> tuple[str, str]:
    """The shape and the size that fit best, in the frames that show most of it."""
    chosen = np.argsort(-areas)[: max(_NUM_SAMPLES, len(areas) // 4)]
    chosen = chosen[:: max(1, len(chosen) // _NUM_SAMPLES)][:_NUM_SAMPLES]
    costs: dict[tuple[str, str], float] = {}
    area = float(np.median(areas[chosen]))
    for shape, size in product(SHAPES, SIZES):
        if 0.6 < area / _area(shape, SIZES[size]) < 1.6:
            costs[shape, size] = sum(
                _match(
                    cover[frame], _room(view, frame), middles[frame], shape, SIZES[size] * float(view.scale[frame])
                ).cost
                for frame in chosen.tolist()
            )
    if not costs:
        size = min(SIZES, key=lambda name: abs(np.log(max(area, 1) / _area("circle", SIZES[name]))))
        return "circle", size
    return min(costs, key=lambda names: costs[names])


def _area(shape: str, size: float) -> float:
    """Square units."""
    left, right, up, down = EXTENTS[shape]
    factor = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5}[shape]
    return float(factor * (left + right) * (up + down) * size**2)


def _centroid(shape: str) -> float:
    """How far the mean of a shape of size 1 lies below its centre, in units."""
    _, _, up, down = EXTENTS[shape]
    return down - (up + down) / 3 if shape == "triangle" else 0.0


def _room(view: View, frame: int) -> NDArray[np.bool_]:
    """The pixels [h w] that lie wholly inside the room."""
    half = SIZE / 2 * view.scale[frame]
    pixels = np.arange(SIZE) + 0.5 - SIZE / 2
    x, y = (np.abs(pixels - view.offset[frame, axis]) <= half - 0.5 + 1e-6 for axis in (0, 1))
    return np.asarray(y[:, None] & x)


@dataclass(frozen=True)
class _Match:
    centre: tuple[float, float]
    cost: float


def _match(cover: Pixels, free: NDArray[np.bool_], near: Floats, shape: str, scale: float) -> _Match:
    """The place at which an outline differs least from a cover [h w] in the free pixels, near a place."""
    corner = np.round(near - _SIDE / 2).astype(int)
    margin = _SIDE
    wide, known = (np.pad(part, margin) for part in (np.where(free, cover, 0), free.astype(np.float32)))
    window = tuple(slice(int(start) + margin, int(start) + margin + _SIDE) for start in corner[::-1])
    own, weights = wide[window], known[window]
    outline, square = _spectra(shape, round(scale, 3))
    gain = np.fft.irfft2(np.fft.rfft2(own) * outline, (_SIDE, _SIDE))
    loss = np.fft.irfft2(np.fft.rfft2(weights) * square, (_SIDE, _SIDE))
    costs = loss - 2 * gain + float((own**2).sum())
    middle = slice(_SIDE // 2 - _MOST_SHIFT, _SIDE // 2 + _MOST_SHIFT + 1)
    inner = costs[middle, middle]
    row, column = np.unravel_index(int(inner.argmin()), inner.shape)
    down = _vertex(inner[:, column], int(row))
    right = _vertex(inner[row], int(column))
    offset = _SIDE / 2 - _MOST_SHIFT
    return _Match((float(corner[0] + right + offset), float(corner[1] + down + offset)), float(inner[row, column]))


def _vertex(values: Floats, lowest: int) -> float:
    """The place of the lowest point of the parabola through the lowest value and its neighbours."""
    if not 0 < lowest < len(values) - 1:
        return lowest
    before, at, after = values[lowest - 1 : lowest + 2].tolist()
    bend = before - 2 * at + after
    return lowest + (0.5 * (before - after) / bend if bend > 0 else 0.0)


@cache
def _spectra(shape: str, scale: float) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Conjugate spectra of the cover of an outline and of its square, for cross-correlations."""
    steps = (np.arange(_SIDE) + 0.5 - _SIDE / 2).astype(np.float32)
    cover = np.clip(0.5 - DISTANCES[shape](steps, steps[:, None], np.array(scale, np.float32)), 0, 1)
    return np.conj(np.fft.rfft2(np.fft.ifftshift(cover))), np.conj(np.fft.rfft2(np.fft.ifftshift(cover**2)))
