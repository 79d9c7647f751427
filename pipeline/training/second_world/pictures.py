"""The pictures of the second world.

Grounds and walls are grey and shapes are not, which separates them in any light.

Shapes: f frames, b bodies, h w pixels, s a side of the square around a body.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.training.second_world.captions import COLOURS, SIZES, TONES, Body
from longtake.pipeline.training.second_world.moves import FPS, SIZE, Floats, Moves
from longtake.pipeline.training.world import EXTENTS

Pixels = NDArray[np.float32]

WALL = 128
"""Grey level of the walls around the room, which a camera that moves shows."""
PERIOD = 16
"""Units from stripe to stripe and from dot to dot; the base is at all walls, so that their edges are clear."""

_TURN = np.float32(2 * np.pi / PERIOD)
_REACH = 14.0  # the widest shape at size 1


@dataclass(frozen=True)
class Pictures:
    """Frames in -1..1 [f 3 h w], and the visible cover of each body by pixel, 0..1 [b f h w]."""

    frames: Pixels
    covers: Pixels


def draw_pictures(moves: Moves) -> Pictures:
    """Anti-aliased pictures, without motion blur."""
    times_s = (np.arange(round(moves.stop_s * FPS)) + 0.5) / FPS
    view = _View(moves, times_s)
    frames = np.empty((len(times_s), 3, SIZE, SIZE), np.float32)
    frames[:] = view.ground(moves)[:, None]
    covers = np.zeros((len(moves.paths), len(times_s), SIZE, SIZE), np.float32)
    bodies = moves.caption.bodies
    for number in reversed(range(len(bodies))):
        _draw_body(frames, covers, number, bodies[number], view, moves.places(times_s)[number])
    return Pictures(frames, covers)


class _View:
    """The room through the camera of each frame: the units that pixels show, and how far they are inside the room."""

    def __init__(self, moves: Moves, times_s: Floats) -> None:
        self.scale = moves.scale(times_s)
        self.brightness = moves.brightness(times_s)
        self.middle = SIZE / 2 + np.stack((moves.offset(times_s), 0 * times_s), axis=1)
        pixels = np.arange(SIZE) + 0.5
        self.x, self.y = (
            ((pixels - self.middle[:, axis, None]) / self.scale[:, None] + SIZE / 2).astype(np.float32)
            for axis in (0, 1)
        )
        scale = self.scale[:, None].astype(np.float32)
        self.inside_x, self.inside_y = (
            np.clip(0.5 + scale * np.minimum(units, SIZE - units), 0, 1) for units in (self.x, self.y)
        )
        if moves.caption.camera == "still":
            self.inside_x[:], self.inside_y[:] = 1, 1

    def ground(self, moves: Moves) -> Pixels:
        """Ground and walls in -1..1: [f h w], or [1 h w] if all frames are alike."""
        caption = moves.caption
        alike = caption.camera == "still" and caption.light == "steady"
        chosen = slice(0, 1 if alike else None)
        base, other = TONES[caption.tone]
        bright = self.brightness[chosen, None, None].astype(np.float32) / np.float32(127.5)
        x, y = self.x[chosen, None, :], self.y[chosen, :, None]
        scale = self.scale[chosen, None, None].astype(np.float32)
        share: Pixels = np.zeros((1, 1, 1), np.float32)
        if caption.pattern == "gradient":
            share = y / np.float32(SIZE)
        elif caption.pattern == "striped":
            share = np.clip(0.5 - scale * np.cos(_TURN * x) / _TURN, 0, 1, dtype=np.float32)
        elif caption.pattern == "dotted":
            across, down = 2 * scale * np.cos(_TURN * x), 2 * scale * (np.cos(_TURN * y) + 1)
            share = np.clip(0.5 - across - down, 0, 1, dtype=np.float32)
        levels = np.broadcast_to(bright * (base + (other - base) * share), (len(bright), SIZE, SIZE))
        if caption.camera == "still":
            return levels - np.float32(1)
        inside = self.inside_y[:, :, None] * self.inside_x[:, None, :]
        return np.asarray((levels - bright * WALL) * inside + (bright * WALL - 1))


def _draw_body(frames: Pixels, covers: Pixels, number: int, body: Body, view: _View, places: Floats) -> None:
    """Draw a body over all frames, and take it from the covers of those behind it."""
    size = SIZES[body.size]
    middles = (places - SIZE / 2) * view.scale[:, None] + view.middle
    side = min(SIZE, int(2 * (_REACH * size * view.scale.max() + 2)))
    corners = np.clip(np.round(middles - side / 2), 0, SIZE - side).astype(np.int64)
    steps = np.arange(side) + 0.5
    x, y = ((corners[:, axis, None] + steps - middles[:, axis, None]).astype(np.float32) for axis in (0, 1))
    scale = (size * view.scale)[:, None, None].astype(np.float32)
    distance = DISTANCES[body.shape](x[:, None, :], y[:, :, None], scale)
    cover = np.clip(np.float32(0.5) - distance, 0, 1)
    ink = np.array(COLOURS[body.colour], np.float32) / 127.5
    for frame, (left, top) in enumerate(corners.tolist()):
        square = slice(top, top + side), slice(left, left + side)
        inside = view.inside_y[frame, square[0], None] * view.inside_x[frame, None, square[1]]
        own = cover[frame] * inside
        part = frames[(frame, slice(None), *square)]
        part += own * ((ink * np.float32(view.brightness[frame]) - 1)[:, None, None] - part)
        covers[(slice(number + 1, None), frame, *square)] *= 1 - own
        covers[(number, frame, *square)] = own


def _circle(x: Pixels, y: Pixels, scale: Pixels) -> Pixels:
    return np.asarray(np.sqrt(x * x + y * y) - EXTENTS["circle"][0] * scale)


def _square(x: Pixels, y: Pixels, scale: Pixels) -> Pixels:
    return np.asarray(np.maximum(np.abs(x), np.abs(y)) - EXTENTS["square"][0] * scale)


def _triangle(x: Pixels, y: Pixels, scale: Pixels) -> Pixels:
    half, _, up, down = (extent * scale for extent in EXTENTS["triangle"])
    slope = np.hypot(half, up + down)
    return np.asarray(np.maximum((np.abs(x) * (up + down) - (y + up) * half) / slope, y - down))


DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle}
"""Signed distances to the edge of a shape of a scale [...], negative inside, from offsets from its centre in pixels."""
