"""What happens in a clip of the second world: paths, events with exact times, camera and light.

The shapes are in a room of `SIZE` x `SIZE` units, whose edges are walls; for a still camera a unit is a pixel. Shapes
that bounce move in straight lines from event to event. When two of them meet, each is reflected like off a wall between
them and keeps its own speed, so that captions stay true. Times are seconds from the clip's start; frame i shows the
instant (i + 0.5) / fps.

Shapes: f frames, k knots of a path, a the two axes x and y.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, pi, sqrt
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.training.second_world.captions import SIZES, Body, Caption
from longtake.pipeline.training.world import EXTENTS

Floats = NDArray[np.float64]

SIZE = 128
FPS = 16

SPEEDS = {"fast": (84.0, 112.0), "slow": (36.0, 50.0)}
"""Of shapes that bounce, in units per second."""
_GLIDE_SPEED, _MOST_TURN = (50.0, 75.0), 3.0
_ANGLE, _ANGLE_IN_A_HALF = (20.0, 70.0), (58.0, 72.0)  # degrees from the horizontal; from the short axis of a half
_VISIT_REACH, _VISIT_S = 50.0, (3.2, 4.8)
_LARGEST_JUMP = 1.0  # units, where a prompt changes
_MEETING_RADIUS = {"circle": 10.0, "square": 10.2, "triangle": 9.5}

EventKind = Literal["wall", "meeting", "leaves", "returns"]


@dataclass(frozen=True)
class Event:
    """Something that a body does at a time.

    Args:
        body: its index in the caption.
        speed: its speed along the normal of what it hits, in units per second.
        place: its centre, in units [a].
    """

    kind: EventKind
    time_s: float
    body: int
    speed: float
    place: tuple[float, float]


class Path(Protocol):
    """Where the centre of a body is."""

    def places(self, times_s: Floats) -> Floats:
        """Centres [f a] in units at `times_s` [f]."""
        ...


@dataclass(frozen=True)
class Lines:
    """Straight lines from knot to knot: times [k], centres [k a] and the velocities after them [k a]."""

    times_s: Floats
    knots: Floats
    velocities: Floats

    def places(self, times_s: Floats) -> Floats:
        """Centres [f a]."""
        line = np.searchsorted(self.times_s, times_s, side="right") - 1
        places: Floats = self.knots[line] + self.velocities[line] * (times_s - self.times_s[line])[:, None]
        return places


@dataclass(frozen=True)
class Glide:
    """A circle of `radius` around `middle` [a]."""

    middle: Floats
    radius: float
    phase: float
    turn: float

    def places(self, times_s: Floats) -> Floats:
        """Centres [f a]."""
        angles = self.phase + self.turn * times_s
        return np.asarray(self.middle + self.radius * np.stack((np.cos(angles), np.sin(angles)), axis=1))


@dataclass(frozen=True)
class Visit:
    """Through the wall at `edge` and back, smoothly: half of each period is on either side of the wall."""

    edge: float
    height: float
    period_s: float
    phase: float

    def places(self, times_s: Floats) -> Floats:
        """Centres [f a]."""
        inwards = 1 if self.edge == 0 else -1
        across = self.edge + inwards * _VISIT_REACH * np.sin(2 * pi * times_s / self.period_s + self.phase)
        return np.stack((across, np.full(len(times_s), self.height)), axis=1)

    def crossings(self, stop_s: float) -> list[tuple[EventKind, float]]:
        """Times in 0..`stop_s` at which the centre crosses the wall."""
        halves = np.arange(np.ceil(self.phase / pi), np.ceil(2 * stop_s / self.period_s + self.phase / pi))
        times = (halves - self.phase / pi) * self.period_s / 2
        return [("leaves" if half % 2 else "returns", float(time)) for half, time in zip(halves, times, strict=True)]

    @property
    def crossing_speed(self) -> float:
        """Speed at the wall."""
        return 2 * pi * _VISIT_REACH / self.period_s


@dataclass(frozen=True)
class Swing:
    """A slow harmonic motion of a camera or a light, -1..1."""

    period_s: float
    phase: float

    def at(self, times_s: Floats) -> Floats:
        """Its value [f]."""
        return np.asarray(np.sin(2 * pi * times_s / self.period_s + self.phase))

    def since(self, start_s: float) -> "Swing":
        """The same motion, seen from `start_s` on."""
        return Swing(self.period_s, self.phase + 2 * pi * start_s / self.period_s)


@dataclass(frozen=True)
class Moves:
    """Everything that happens in a clip of `stop_s` seconds: pictures and sound are rendered from it.

    Args:
        paths: one for each body of the caption.
        events: ascending.
    """

    caption: Caption
    stop_s: float
    paths: tuple[Path, ...]
    events: tuple[Event, ...]
    camera: Swing
    light: Swing

    def places(self, times_s: Floats) -> Floats:
        """Centres of the bodies in units [b f a]."""
        return np.stack([path.places(times_s) for path in self.paths])

    def scale(self, times_s: Floats) -> Floats:
        """Pixels per unit [f]; the centre of the room is at the centre of the picture plus `offset`."""
        if self.caption.camera == "zoom":
            return 0.88 + 0.1 * self.camera.at(times_s)
        return np.full(len(times_s), 0.8 if self.caption.camera == "pan" else 1.0)

    def offset(self, times_s: Floats) -> Floats:
        """Horizontal place of the room's centre minus that of the picture's, in pixels [f]."""
        return 10 * self.camera.at(times_s) * (self.caption.camera == "pan")

    def brightness(self, times_s: Floats) -> Floats:
        """The factor of all colours [f]: 1 in steady light, else 0.5..1."""
        return np.asarray(0.75 + 0.25 * self.light.at(times_s) if self.caption.light == "changing" else times_s * 0 + 1)


def draw_moves(rng: np.random.Generator, caption: Caption, stop_s: float) -> Moves:
    """Moves with random places, speeds and phases."""
    starts = _starts(rng, caption)
    velocities = [_velocity(rng, body) for body in caption.bodies]
    visits = [rng.uniform(*_VISIT_S) for _ in caption.bodies]
    paths, events = _paths(rng, caption, stop_s, starts, velocities, visits)
    camera, light = Swing(rng.uniform(8, 12), rng.uniform(0, 2 * pi)), Swing(rng.uniform(6, 9), rng.uniform(0, 2 * pi))
    return Moves(caption, stop_s, paths, events, camera, light)


def continued(rng: np.random.Generator, moves: Moves, caption: Caption, start_s: float) -> Moves | None:
    """What follows `moves` from `start_s` on under another caption, in times since then.

    Bodies, camera and light continue from where they are; bodies that bounce keep their directions.

    Returns:
        None if they cannot: a body is not in its new part of the picture, say, or bodies overlap that now meet.
    """
    starts, soon = np.moveaxis(moves.places(np.array([start_s, start_s + 1e-3])), 1, 0)
    if len(starts) != len(caption.bodies) or (caption.camera, caption.light) != (
        moves.caption.camera,
        moves.caption.light,
    ):
        return None
    for body, start in zip(caption.bodies, starts, strict=True):
        low, high = box(body)
        if body.motion == "comes and goes" or np.any(start < low) or np.any(start > high):
            return None
    if caption.meets and not _apart(caption, list(starts)):
        return None
    directions = np.where(soon < starts, -1, 1)
    velocities = [np.abs(_velocity(rng, body)) * way for body, way in zip(caption.bodies, directions, strict=True)]
    stop_s = moves.stop_s - start_s
    paths, events = _paths(rng, caption, stop_s, list(starts), velocities, visits=[])
    if np.abs(np.stack([path.places(np.zeros(1))[0] for path in paths]) - starts).max() > _LARGEST_JUMP:
        return None
    return Moves(caption, stop_s, paths, events, moves.camera.since(start_s), moves.light.since(start_s))


def _paths(
    rng: np.random.Generator,
    caption: Caption,
    stop_s: float,
    starts: Sequence[Floats],
    velocities: Sequence[Floats],
    visits: Sequence[float],
) -> tuple[tuple[Path, ...], tuple[Event, ...]]:
    """The path of each body, and all events, ascending."""
    paths: list[Path] = []
    events: list[Event] = []
    for number, body in enumerate(caption.bodies):
        if body.motion == "comes and goes":
            edge = {"left": 0.0, "right": float(SIZE)}.get(body.place, float(rng.choice((0, SIZE))))
            visit = Visit(edge, starts[number][1], visits[number], rng.uniform(0, 2 * pi))
            paths.append(visit)
            for kind, time_s in visit.crossings(stop_s):
                events.append(Event(kind, time_s, number, visit.crossing_speed, (edge, visit.height)))
        elif body.motion == "glides":
            paths.append(_glide(rng, body, starts[number]))
        elif body.motion == "rests":
            paths.append(Lines(np.zeros(1), starts[number][None], np.zeros((1, 2))))
        else:
            paths.append(Lines(np.zeros(1), starts[number][None], velocities[number][None]))
    bouncing = [number for number, body in enumerate(caption.bodies) if body.bounces]
    for together in [bouncing] if caption.meets else [[number] for number in bouncing]:
        bounces = _Bounces(caption, together, [starts[n] for n in together], [velocities[n] for n in together])
        events += bounces.run(stop_s)
        for number, path in zip(together, bounces.paths(), strict=True):
            paths[number] = path
    return tuple(paths), tuple(sorted(events, key=lambda event: event.time_s))


class _Bounces:
    """Bodies that hit walls and, if there are two, each other: simulated from event to event."""

    def __init__(
        self, caption: Caption, numbers: Sequence[int], starts: Sequence[Floats], velocities: Sequence[Floats]
    ) -> None:
        bodies = [caption.bodies[number] for number in numbers]
        self._numbers = numbers
        self._low, self._high = (np.stack(edges) for edges in zip(*(box(body) for body in bodies), strict=True))
        self._contact = sum(meeting_radius(body) for body in bodies)
        self._now_s, self._places, self._velocities = 0.0, np.stack(starts), np.stack(velocities)
        self._knots = [(0.0, self._places.copy(), self._velocities.copy())]

    def run(self, stop_s: float) -> list[Event]:
        """All events before `stop_s`."""
        events: list[Event] = []
        while True:
            walls_s = self._walls_s()
            wall_s, meeting_s = float(walls_s.min()), self._meeting_s()
            if self._now_s + min(wall_s, meeting_s) >= stop_s:
                return events
            self._now_s += min(wall_s, meeting_s)
            self._places = self._places + self._velocities * min(wall_s, meeting_s)
            if meeting_s < wall_s:
                events += self._meet()
            else:
                events.append(self._hit_wall(*np.unravel_index(int(walls_s.argmin()), walls_s.shape)))
            self._knots.append((self._now_s, self._places.copy(), self._velocities.copy()))

    def paths(self) -> list[Lines]:
        """The path of each body up to now."""
        times, places, velocities = (np.array(part) for part in zip(*self._knots, strict=True))
        return [Lines(times, places[:, number], velocities[:, number]) for number in range(len(self._numbers))]

    def _walls_s(self) -> Floats:
        """Seconds until each body [b] reaches a wall along each axis [a]."""
        walls = np.where(self._velocities > 0, self._high, self._low)
        with np.errstate(divide="ignore", invalid="ignore"):
            seconds = (walls - self._places) / self._velocities
        return np.where(np.isfinite(seconds), np.maximum(seconds, 0), inf)

    def _meeting_s(self) -> float:
        if len(self._numbers) < 2:
            return inf
        away, closing = self._places[1] - self._places[0], self._velocities[1] - self._velocities[0]
        along, squared = float(away @ closing), float(closing @ closing)
        reach = along**2 - squared * (float(away @ away) - self._contact**2)
        if along >= 0 or reach <= 0:
            return inf
        return max(0.0, (-along - sqrt(reach)) / squared)

    def _hit_wall(self, body: np.intp, axis: np.intp) -> Event:
        velocity = self._velocities[body, axis]
        self._places[body, axis] = (self._high if velocity > 0 else self._low)[body, axis]
        self._velocities[body, axis] = -velocity
        return self._event("wall", int(body), abs(float(velocity)))

    def _meet(self) -> list[Event]:
        normal = self._places[1] - self._places[0]
        normal = normal / np.hypot(*normal)
        speeds = []
        for body, away in enumerate((-normal, normal)):
            speed = float(self._velocities[body] @ away)
            self._velocities[body] += (abs(speed) - speed) * away
            speeds.append(abs(speed))
        return [self._event("meeting", body, max(speeds)) for body in range(2)]

    def _event(self, kind: EventKind, body: int, speed: float) -> Event:
        x, y = self._places[body].tolist()
        return Event(kind, self._now_s, self._numbers[body], speed, (x, y))


def box(body: Body) -> tuple[Floats, Floats]:
    """The smallest and the largest coordinates [a] of the centre of a body that stays in its part of the picture."""
    left, right, up, down = (SIZES[body.size] * extent for extent in EXTENTS[body.shape])
    half = SIZE / 2
    low = np.array([half * (body.place == "right") + left, half * (body.place == "bottom") + up])
    high = np.array([SIZE - half * (body.place == "left") - right, SIZE - half * (body.place == "top") - down])
    return low, high


def meeting_radius(body: Body) -> float:
    """The radius of the disc as which a body meets another, in units."""
    return SIZES[body.size] * _MEETING_RADIUS[body.shape]


def _starts(rng: np.random.Generator, caption: Caption) -> list[Floats]:
    """A place for each body; bodies that bounce off each other start apart."""
    while True:
        starts = [rng.uniform(*box(body)) for body in caption.bodies]
        if not caption.meets:
            return starts
        if _apart(caption, starts):
            return starts


def _apart(caption: Caption, starts: Sequence[Floats]) -> bool:
    """Whether two bodies that bounce off each other do not touch."""
    return float(np.hypot(*(starts[1] - starts[0]))) > 2 + sum(meeting_radius(body) for body in caption.bodies)


def _velocity(rng: np.random.Generator, body: Body) -> Floats:
    speed = rng.uniform(*SPEEDS["fast" if "fast" in body.motion else "slow"])
    angle = np.deg2rad(rng.uniform(*(_ANGLE if body.place == "anywhere" else _ANGLE_IN_A_HALF)))
    direction = np.array([np.cos(angle), np.sin(angle)])
    if body.place in ("top", "bottom"):
        direction = direction[::-1]
    return np.asarray(speed * direction * rng.choice([-1, 1], size=2))


def _glide(rng: np.random.Generator, body: Body, start: Floats) -> Glide:
    """A circle that touches no wall, around the middle of the body's part of the picture."""
    low, high = box(body)
    middle = (low + high) / 2
    arm = start - middle
    radius = float(np.clip(np.hypot(*arm), min(16.0, np.min(high - low) / 2 - 2), np.min(high - low) / 2 - 2))
    turn = min(rng.uniform(*_GLIDE_SPEED) / radius, _MOST_TURN) * rng.choice([-1, 1])
    return Glide(middle, radius, float(np.arctan2(arm[1], arm[0])), float(turn))
