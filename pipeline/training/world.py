"""The synthetic world that the embedded models are trained on: sounding shapes in a box.

A shape moves in a box. Each time it hits a wall, at the exact continuous time, a decaying tone begins: pitch by colour,
timbre by shape, loudness by impact speed. A `Moves` determines everything that happens: picture and sound are rendered
from it, and it is the ground truth for evaluation.

Times are seconds from the clip's start; frame i shows the instant (i + 0.5) / fps.

Shapes: f frames, e hits, a the two axes x and y.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SIZE = 64
FPS = 16
SAMPLE_RATE = 16_000

COLOURS = {
    "red": (230, 50, 50),
    "green": (40, 180, 70),
    "blue": (50, 90, 230),
    "yellow": (235, 205, 40),
    "purple": (165, 70, 205),
    "cyan": (50, 200, 215),
}
TAUGHT_COLOURS = {"red yellow": (240, 130, 40)}
"""Colours that the embedded model was not trained on, for LoRAs to teach: orange. Prompts name them by words of the
model's vocabulary, and leave out the article, so that every other word keeps its place."""

ALL_COLOURS = {**COLOURS, **TAUGHT_COLOURS}
BACKGROUNDS = {"dark": (24, 24, 28), "light": (226, 226, 220)}
PITCH_HZ = {"red": 260, "green": 320, "blue": 380, "yellow": 440, "purple": 520, "cyan": 600, "red yellow": 260}
"""All multiples of 20 Hz, with the phase fixed to the film's clock: every audio latent of 50 ms holds whole periods, so
a tone is the same in each of them except for its envelope. The sound codec has no other pitches, so colours that a LoRA
teaches share one."""

HARMONICS = {"circle": (1.0, 0.0, 0.0, 0.0), "square": (1.0, 0.0, 0.6, 0.0), "triangle": (1.0, 0.6, 0.4, 0.3)}
EXTENTS = {
    "circle": (10.0, 10.0, 10.0, 10.0),
    "square": (9.0, 9.0, 9.0, 9.0),
    "triangle": (11.0, 11.0, 11.5, 8.0),
}
"""Extent of a shape left, right, up and down from its centre, in pixels."""

SPEEDS = {"fast": (44.0, 60.0), "slow": (18.0, 26.0)}
GLIDE_SPEED = (28.0, 40.0)
BOUNCE_ANGLE = (np.deg2rad(20), np.deg2rad(70))

Motion = Literal["bounces fast", "bounces slow", "bounces fast silently", "bounces slow silently", "glides", "rests"]
MOTIONS: tuple[Motion, ...] = get_args(Motion)
MOTION_WEIGHTS = (0.36, 0.36, 0.07, 0.07, 0.07, 0.07)


@dataclass(frozen=True)
class Caption:
    """A prompt of the grammar, parsed."""

    colour: str
    shape: str
    motion: Motion
    background: str

    def __str__(self) -> str:
        article = "" if self.colour in TAUGHT_COLOURS else "a "
        return f"{article}{self.colour} {self.shape} {self.motion} on a {self.background} background"

    @property
    def speed(self) -> str | None:
        """ "fast" or "slow"; None if the prompt states no speed."""
        return next((speed for speed in SPEEDS if speed in self.motion), None)

    @property
    def bounces(self) -> bool:
        """Whether the shape hits walls."""
        return self.motion.startswith("bounces")

    @property
    def sounds(self) -> bool:
        """Whether its hits make a sound."""
        return self.bounces and "silently" not in self.motion

    @classmethod
    def parse(cls, prompt: str) -> "Caption | None":
        """The caption of `prompt`; None if it does not follow the grammar."""
        return _CAPTIONS.get(" ".join(prompt.lower().split()))


CAPTIONS = tuple(Caption(*parts) for parts in product(COLOURS, EXTENTS, MOTIONS, BACKGROUNDS))
TAUGHT_CAPTIONS = tuple(Caption(*parts) for parts in product(TAUGHT_COLOURS, EXTENTS, MOTIONS, BACKGROUNDS))
_CAPTIONS = {str(caption): caption for caption in (*CAPTIONS, *TAUGHT_CAPTIONS)}

HELD_OUT = (
    Caption("red", "square", "bounces fast", "light"),
    Caption("green", "circle", "bounces slow", "dark"),
    Caption("blue", "triangle", "bounces fast", "dark"),
    Caption("yellow", "square", "bounces slow", "dark"),
    Caption("purple", "circle", "bounces fast", "light"),
    Caption("cyan", "triangle", "bounces slow", "light"),
    Caption("red", "triangle", "bounces slow", "dark"),
    Caption("blue", "circle", "bounces fast", "light"),
)
"""Captions held out from training."""


def draw_caption(rng: np.random.Generator) -> Caption:
    """A random training caption: motions weighted by `MOTION_WEIGHTS`, the rest uniform, none of `HELD_OUT`."""
    while True:
        motion = MOTIONS[rng.choice(len(MOTIONS), p=MOTION_WEIGHTS)]
        colour, shape, background = (str(rng.choice(list(names))) for names in (COLOURS, EXTENTS, BACKGROUNDS))
        caption = Caption(colour, shape, motion, background)
        if caption not in HELD_OUT:
            return caption


@dataclass(frozen=True)
class Leg:
    """The part of a clip under one caption.

    Args:
        start_s: start time; the leg lasts until the next one, or without end.
        place: initial position of the shape's centre, pixels [a].
        velocity: initial velocity, pixels per second [a]; a glide uses only its magnitude and turning direction.
    """

    caption: Caption
    start_s: float
    place: Floats
    velocity: Floats

    def places(self, times_s: Floats) -> Floats:
        """Centres [f a] at `times_s` [f]."""
        elapsed = (times_s - self.start_s)[:, None]
        if self.caption.bounces:
            low, high = box(self.caption.shape)
            along = (self.place - low + self.velocity * elapsed) % (2 * (high - low))
            return low + np.minimum(along, 2 * (high - low) - along)
        if self.caption.motion == "glides":
            return self._glide(elapsed)
        return np.broadcast_to(self.place, (len(times_s), 2)).copy()

    def hits(self, stop_s: float) -> tuple[Floats, Floats]:
        """Times of wall hits before `stop_s`, ascending, and the speed along the wall's normal at each, both [e]."""
        if not self.caption.bounces:
            return np.zeros(0), np.zeros(0)
        low, high = box(self.caption.shape)
        times, speeds = [], []
        for path, offset, velocity in zip(high - low, self.place - low, self.velocity, strict=True):
            speed = abs(velocity)
            travelled = offset if velocity > 0 else path - offset
            walls = np.arange(1, 2 + int((travelled + (stop_s - self.start_s) * speed) / path))
            times.append(self.start_s + (walls * path - travelled) / speed)
            speeds.append(np.full(len(walls), speed))
        when, how_fast = np.concatenate(times), np.concatenate(speeds)
        order = np.argsort(when)
        kept = order[when[order] < stop_s]
        return when[kept], how_fast[kept]

    def _glide(self, elapsed: Floats) -> Floats:
        """Centres on a circle around the box's centre that touches no wall, after a smooth approach to it."""
        low, high = box(self.caption.shape)
        middle = (low + high) / 2
        arm = self.place - middle
        length, limit = float(np.hypot(*arm)), float(np.min(high - low)) / 2 - 2
        radius = float(np.clip(length, 8, limit))
        sense = np.sign(arm[0] * self.velocity[1] - arm[1] * self.velocity[0]) or 1.0
        angle = np.arctan2(arm[1], arm[0]) + sense * float(np.hypot(*self.velocity)) / radius * elapsed
        reach = radius + (length - radius) * np.exp(-elapsed / 0.4)
        places: Floats = middle + reach * np.concatenate((np.cos(angle), np.sin(angle)), axis=1)
        return places


@dataclass(frozen=True)
class Moves:
    """Everything that happens in one clip: its legs in order, the first at 0 s."""

    legs: tuple[Leg, ...]

    def leg_index(self, times_s: Floats) -> Integers:
        """The index of the leg at each time [f]."""
        return np.searchsorted([leg.start_s for leg in self.legs], times_s, side="right") - 1

    def places(self, times_s: Floats) -> Floats:
        """Centres of the shape [f a] at `times_s` [f]."""
        index = self.leg_index(times_s)
        places = np.zeros((len(times_s), 2))
        for number, leg in enumerate(self.legs):
            places[index == number] = leg.places(times_s[index == number])
        return places

    def hits(self, stop_s: float) -> Iterator[tuple[Caption, Floats, Floats]]:
        """The caption of each leg with times and speeds of its hits before `stop_s`, with or without a sound."""
        stops = [*(leg.start_s for leg in self.legs[1:]), stop_s]
        for leg, leg_stop_s in zip(self.legs, stops, strict=True):
            yield leg.caption, *leg.hits(min(leg_stop_s, stop_s))


def draw_moves(rng: np.random.Generator, caption: Caption) -> Moves:
    """A shape that starts at a random place in the box."""
    return Moves((_leg(rng, caption, 0.0, rng.uniform(*box(caption.shape)), heading=None),))


def switched(rng: np.random.Generator, moves: Moves, caption: Caption, start_s: float) -> Moves:
    """`moves` with another caption from `start_s` on; place and direction are continuous."""
    here, soon = moves.legs[-1].places(np.array([start_s, start_s + 1e-3]))
    place = np.clip(here, *box(caption.shape))
    return Moves((*moves.legs, _leg(rng, caption, start_s, place, heading=soon - here)))


def _leg(rng: np.random.Generator, caption: Caption, start_s: float, place: Floats, heading: Floats | None) -> Leg:
    speed = rng.uniform(*SPEEDS.get(caption.speed or "", GLIDE_SPEED))
    angle = rng.uniform(*BOUNCE_ANGLE)
    direction = np.array([np.cos(angle), np.sin(angle)]) * rng.choice([-1, 1], size=2)
    if heading is not None and np.all(np.abs(heading) > 1e-9):
        slope = np.clip(np.arctan2(abs(heading[1]), abs(heading[0])), *BOUNCE_ANGLE)
        direction = np.sign(heading) * np.array([np.cos(slope), np.sin(slope)])
    return Leg(caption, start_s, place, speed * direction)


def box(shape: str) -> tuple[Floats, Floats]:
    """The smallest and the largest coordinates [a] of the centre of `shape` in the box."""
    left, right, up, down = EXTENTS[shape]
    return np.array([left, up]), np.array([SIZE - right, SIZE - down])
