"""The ground, the camera and the light of films of the second world.

What is grey is ground or wall. The walls around the room, which a camera that moves shows, are brighter than a dark
ground and darker than a light one; the places of the room's four edges give the camera.

Shapes: f frames, h w pixels, u units of the room.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.training.second_world.moves import SIZE, Floats
from longtake.pipeline.training.second_world.pictures import Pixels

Bools = NDArray[np.bool_]

_GREY = 14.0  # largest difference of the channels of a grey pixel
_INNER = slice(28, 100)  # pixels that always show the room
_LIGHT_LEVEL = 75.0  # a light ground is above it in the dimmest light, a dark one below it in full light
_WALL_RATIOS = 0.8, 1.8  # of wall to ground: at most on a light ground, at least on a dark one
_PATTERN_SPREADS = {"striped": 18.0, "gradient": 10.4, "dotted": 9.9}  # in grey levels, in full light
_CHANGING = 0.88  # largest ratio of the darkest to the brightest frame in changing light
_NUM_SAMPLES = 8
_COARSE = 5.0  # units between the places whose light is compared


@dataclass(frozen=True)
class View:
    """What the camera of each frame shows: pixels per unit [f], the room's centre minus the picture's [f 2]."""

    scale: Floats
    offset: Floats

    def units(self, pixels: Floats) -> Floats:
        """Places in the room of places in the picture [f 2]."""
        return np.asarray((pixels - SIZE / 2 - self.offset) / self.scale[:, None] + SIZE / 2)


@dataclass(frozen=True)
class Ground:
    """Names of the grammar for what surrounds the shapes, and the view of each frame."""

    tone: str
    pattern: str
    camera: str
    light: str
    view: View


def read_ground(frames: NDArray[np.uint8]) -> Ground:
    """Read RGB frames [f h w 3] of one shot, of a few seconds at least."""
    grey, levels = _grey(frames)
    view = _view(grey, levels)
    inner = np.where(grey[:, _INNER, _INNER], levels[:, _INNER, _INNER], np.nan)
    middle = np.nanmedian(inner, axis=(1, 2))
    tone = "light" if middle.max() > 90 else "dark"
    brightness = _brightness(grey, levels, view)
    return Ground(
        tone=tone,
        pattern=_pattern(grey, levels, brightness, view),
        camera=_camera(view),
        light="changing" if brightness.min() < _CHANGING else "steady",
        view=view,
    )


def _grey(frames: NDArray[np.uint8]) -> tuple[Bools, Pixels]:
    """Which pixels [f h w] are grey and not next to a shape, and the mean of their channels."""
    red, green, blue = (frames[..., channel].astype(np.int16) for channel in range(3))
    coloured = (np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)) > _GREY
    near = coloured.copy()
    for axis in (1, 2):
        for shift in (-2, -1, 1, 2):
            near |= np.roll(coloured, shift, axis)
        coloured = near.copy()
    near[near[:, _INNER, _INNER].all(axis=(1, 2))] = False  # no ground is visible, so any pixel is as good
    return ~near, ((red + green + blue) / np.float32(3)).astype(np.float32)


def _view(grey: Bools, levels: Pixels) -> View:
    edges = np.stack([_edges(grey, levels, axis) for axis in (0, 1)])
    is_found = np.isfinite(edges).all(axis=(0, 2))
    if is_found.mean() < 0.5:
        return View(np.ones(len(levels)), np.zeros((len(levels), 2)))
    found, frames = np.flatnonzero(is_found), np.arange(len(levels))
    low, high = (
        np.stack([np.interp(frames, found, edges[axis, found, end]) for axis in (0, 1)]) for end in (0, 1)
    )  # the camera is slow, so frames between others whose edges were found are like these
    return View(scale=(high - low).mean(axis=0) / SIZE, offset=((low + high - SIZE) / 2).T)


def _edges(grey: Bools, levels: Pixels, axis: int) -> Floats:
    """The room's first and last edge along x (0) or y (1) in each frame [f 2], in pixels; NaN if no wall is visible."""
    if axis == 1:
        grey, levels = grey.swapaxes(1, 2), levels.swapaxes(1, 2)
    weights = grey[:, _INNER].astype(np.float32)
    profiles = (levels[:, _INNER] * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
    known = weights.sum(axis=1) > 3
    return np.array(
        [(_edge(row, seen), SIZE - _edge(row[::-1], seen[::-1])) for row, seen in zip(profiles, known, strict=True)]
    )


def _edge(profile: Pixels, known: Bools) -> float:
    """Where the wall ends that the profile starts in; NaN if it does not start in a wall."""
    places = np.flatnonzero(known)
    values = profile[places].astype(np.float64)
    beyond = np.flatnonzero(np.abs(values - values[0]) > 0.1 * values[0])
    if not len(beyond) or beyond[0] + 2 >= len(values):
        return np.nan
    first = int(beyond[0])
    inside = values[first + 1]
    ratio = values[0] / max(inside, 1)
    if ratio > _WALL_RATIOS[0] if inside > _LIGHT_LEVEL else ratio < _WALL_RATIOS[1]:
        return np.nan
    share = (values[first] - inside) / (values[0] - inside)
    return float(places[first] + np.clip(share, 0, 1))


def _camera(view: View) -> str:
    if np.median(view.scale) > 0.99:
        return "still"
    pan, zoom = np.ptp(view.offset[:, 0]) / 10, np.ptp(view.scale) / 0.1
    return "pan" if pan > zoom else "zoom"


def _sampled(frame: int, units: Floats, grey: Bools, levels: Pixels, view: View) -> Floats:
    """Levels of a frame on a square grid of units [u u]; NaN where a shape is."""
    columns, rows = (
        np.clip((units - SIZE / 2) * view.scale[frame] + SIZE / 2 + view.offset[frame, axis], 0, SIZE - 1).astype(int)
        for axis in (0, 1)
    )
    chosen = np.ix_(rows, columns)
    return np.where(grey[frame][chosen], levels[frame][chosen], np.nan)


def _brightness(grey: Bools, levels: Pixels, view: View) -> Floats:
    """The light of each frame over that of the brightest [f], from places of the room seen in most frames."""
    units = np.arange(_COARSE / 2 + 4, SIZE - 4, _COARSE)
    room = np.stack([_sampled(frame, units, grey, levels, view) for frame in range(len(levels))])
    free = np.isfinite(room).mean(axis=0) > 0.5
    if not free.any():
        return np.ones(len(levels))
    places = np.maximum(room[:, free], 1)
    is_known = np.isfinite(places).any(axis=1)
    ratios = np.ones(len(levels))
    ratios[is_known] = np.nanmedian(places[is_known] / np.nanmedian(places, axis=0), axis=1)
    return np.asarray(ratios / ratios.max())


def _pattern(grey: Bools, levels: Pixels, brightness: Floats, view: View) -> str:
    """From the mean picture of the room [u u], in grey levels of full light."""
    total, count = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    units = np.arange(0.5, SIZE, dtype=np.float64)
    for frame in np.linspace(0, len(levels) - 1, _NUM_SAMPLES).astype(int).tolist():
        sampled = _sampled(frame, units, grey, levels, view) / brightness[frame]
        total += np.nan_to_num(sampled)
        count += np.isfinite(sampled)
    room = np.where(count > 0, total / np.maximum(count, 1), np.nan)[4:-4, 4:-4]
    room = np.where(np.isnan(room), np.nanmean(room), room)
    across, down = room.mean(axis=0), room.mean(axis=1)
    ramp = np.linspace(-1, 1, len(down))
    spreads = {
        "striped": across.std(),
        "gradient": abs(down @ ramp / (ramp @ ramp)) * ramp.std(),
        "dotted": (room - across - down[:, None] + room.mean()).std(),
    }
    shares = {name: float(spread / _PATTERN_SPREADS[name]) for name, spread in spreads.items()}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] > 0.5 else "plain"
