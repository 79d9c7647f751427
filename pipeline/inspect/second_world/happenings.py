"""What the shapes of films of the second world do: their motions, and the events that the picture shows.

Shapes: f frames, b bodies, two axes (x right, y down), in units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longtake.pipeline.inspect.motion import Track, follow
from longtake.pipeline.inspect.prompts import CORNER_S
from longtake.pipeline.inspect.second_world.bodies import SeenBody
from longtake.pipeline.inspect.sync import merged
from longtake.pipeline.training.second_world.captions import SIZES, Body
from longtake.pipeline.training.second_world.moves import SIZE, SPEEDS, EventKind, Floats, meeting_radius
from longtake.pipeline.training.world import EXTENTS

_TO_FIRST_WORLD = 0.5  # `follow` expects pixels of the first world, whose picture has half the side
_REST, _LEAST_BEND = 6.0, 0.8  # units per second, radians per second
_SPEED_BORDER = (SPEEDS["slow"][1] + SPEEDS["fast"][0]) / 2
_OUTSIDE = 4.0  # units that a shape must be in a wall to pass through it
_NEAR_MEETING_S, _CONTACT = 0.08, 1.3


@dataclass(frozen=True)
class SeenEvent:
    """An event by its kind, its time and the colour of its shape."""

    kind: EventKind
    time_s: float
    colour: str


@dataclass(frozen=True)
class Happenings:
    """The motion of each body without "silently" [b], and all events, ascending; two colours for a meeting."""

    motions: tuple[str, ...]
    events: tuple[SeenEvent, ...]


def read_happenings(bodies: Sequence[SeenBody], fps: float) -> Happenings:
    """What the bodies of one shot do."""
    tracks = [follow(body.path * _TO_FIRST_WORLD, fps) for body in bodies]
    motions = tuple(_motion(body, track) for body, track in zip(bodies, tracks, strict=True))
    bounces = [motion.startswith("bounces") for motion in motions]
    meetings_s = _meetings(bodies, fps) if len(bodies) == 2 and all(bounces) else np.zeros(0)
    events: list[SeenEvent] = []
    for body, track, motion in zip(bodies, tracks, motions, strict=True):
        if motion == "comes and goes":
            events += _crossings(body, fps)
        elif motion.startswith("bounces"):
            hits_s = merged(track.hits_s, CORNER_S)
            if len(meetings_s):
                hits_s = hits_s[np.abs(hits_s[:, None] - meetings_s).min(axis=1) > _NEAR_MEETING_S]
            events += [SeenEvent("wall", time_s, body.colour) for time_s in hits_s.tolist()]
            events += [SeenEvent("meeting", time_s, body.colour) for time_s in meetings_s.tolist()]
    return Happenings(motions, tuple(sorted(events, key=lambda event: event.time_s)))


def _motion(body: SeenBody, track: Track) -> str:
    left, right, *_ = (SIZES[body.size] * extent for extent in EXTENTS[body.shape])
    x = body.path[:, 0]
    if np.isnan(x).mean() > 0.15 or np.nanmin(x) < left - _OUTSIDE or np.nanmax(x) > SIZE - right + _OUTSIDE:
        return "comes and goes"
    speeds = track.speeds[np.isfinite(track.speeds)] / _TO_FIRST_WORLD
    bends = track.bends[np.isfinite(track.bends)]
    speed = float(np.median(speeds)) if len(speeds) else 0.0
    if speed < _REST:
        return "rests"
    if len(bends) and abs(float(np.median(bends))) > _LEAST_BEND:
        return "glides"
    return "bounces fast" if speed > _SPEED_BORDER else "bounces slow"


def _meetings(bodies: Sequence[SeenBody], fps: float) -> Floats:
    """Times at which the distance of two shapes turns sharply at the distance of contact."""
    distance = np.hypot(*(bodies[1].path - bodies[0].path).T)
    contact = sum(meeting_radius(Body(body.colour, body.shape, "rests", body.size)) for body in bodies)
    turns_s = follow(np.stack((distance, 0 * distance), axis=1) * _TO_FIRST_WORLD, fps).hits_s
    frames = np.clip(np.round(turns_s * fps - 0.5).astype(int), 0, len(distance) - 1)
    return np.asarray(turns_s[distance[frames] < _CONTACT * contact])


def _crossings(body: SeenBody, fps: float) -> list[SeenEvent]:
    """Leaving and returning: where the centre crosses a wall between two frames that show it."""
    x = body.path[:, 0]
    events: list[SeenEvent] = []
    for edge, outwards in ((0.0, -1), (float(SIZE), 1)):
        away = (x - edge) * outwards
        for frame in np.flatnonzero((away[:-1] < 0) != (away[1:] < 0)).tolist():
            if np.isfinite(away[frame : frame + 2]).all():
                share = away[frame] / (away[frame] - away[frame + 1])
                kind: EventKind = "leaves" if away[frame] < 0 else "returns"
                events.append(SeenEvent(kind, float((frame + 0.5 + share) / fps), body.colour))
    return events
