"""The grammar of the second world: one or two shapes, a ground, a camera and a light, most of them optional.

A caption of the first world is one of this world too: a shape of medium size anywhere in the picture, on a plain
ground, with a still camera and steady light.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from longtake.pipeline.training import world

COLOURS = world.COLOURS
SHAPES = tuple(world.EXTENTS)
SIZES = {"small": 1.0, "medium": 1.5, "large": 2.1}
"""Scale of each size; at 1 a shape has the extents of the first world. A caption does not name the medium size."""

MOTIONS = (*world.MOTIONS, "comes and goes")
PLACES = {
    "anywhere": "",
    "left": " on the left",
    "right": " on the right",
    "top": " at the top",
    "bottom": " at the bottom",
}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
TONES = {"dark": (24, 60), "light": (224, 188)}
"""Grey levels of a ground: the base, and the other level of a pattern."""

PATTERNS = ("plain", "gradient", "striped", "dotted")
CAMERAS = {"still": "", "pan": " while the camera pans", "zoom": " while the camera zooms"}
LIGHTS = {"steady": "", "changing": " as the light dims and rises"}

_MOTION_WEIGHTS = (0.34, 0.3, 0.05, 0.05, 0.08, 0.06, 0.12)


@dataclass(frozen=True)
class Body:
    """One shape of a caption; `place` is the part of the picture that it stays in."""

    colour: str
    shape: str
    motion: str
    size: str = "medium"
    place: str = "anywhere"

    def __str__(self) -> str:
        size = "" if self.size == "medium" else f"{self.size} "
        return f"a {size}{self.colour} {self.shape} {self.motion}{PLACES[self.place]}"

    @property
    def bounces(self) -> bool:
        """Whether it hits walls."""
        return self.motion.startswith("bounces")

    @property
    def sounds(self) -> bool:
        """Whether its events make a sound."""
        return "silently" not in self.motion


@dataclass(frozen=True)
class Caption:
    """A prompt of the grammar, parsed.

    Args:
        bodies: one or two shapes of different colours; where they overlap, the first is in front.
        passing: whether two shapes that both bounce pass each other instead of bouncing off each other.
    """

    bodies: tuple[Body, ...]
    tone: str
    pattern: str = "plain"
    passing: bool = False
    camera: str = "still"
    light: str = "steady"

    def __str__(self) -> str:
        bodies = " and ".join(str(body) for body in self.bodies) + (" passing each other" if self.passing else "")
        pattern = "" if self.pattern == "plain" else f"{self.pattern} "
        return f"{bodies} on a {self.tone} {pattern}background{CAMERAS[self.camera]}{LIGHTS[self.light]}"

    @property
    def may_meet(self) -> bool:
        """Whether there are two shapes that both bounce, in the same part of the picture."""
        return len(self.bodies) == 2 and all(body.bounces and body.place == "anywhere" for body in self.bodies)

    @property
    def meets(self) -> bool:
        """Whether two shapes bounce off each other."""
        return self.may_meet and not self.passing

    @property
    def held_out(self) -> bool:
        """Whether the caption is held out from training: by its pair of shapes, by a shape on a ground, or as today."""
        if str(self) in _HELD_OUT_TODAY:
            return True
        kinds = frozenset((body.colour, body.shape) for body in self.bodies)
        return kinds in HELD_OUT_PAIRS or any((*kind, self.pattern) in HELD_OUT_GROUNDS for kind in kinds)

    @classmethod
    def parse(cls, prompt: str) -> "Caption | None":
        """The caption of `prompt`; None if it does not follow the grammar."""
        found = _GRAMMAR.fullmatch(" ".join(prompt.lower().split()))
        if found is None:
            return None
        caption = cls(
            bodies=tuple(_body(part) for part in _BODY.finditer(found["bodies"])),
            tone=found["tone"],
            pattern=found["pattern"] or "plain",
            passing=found["passing"] is not None,
            camera=_named(CAMERAS, found["camera"]),
            light=_named(LIGHTS, found["light"]),
        )
        return caption if _is_consistent(caption) else None


HELD_OUT_PAIRS = frozenset(
    frozenset(pair)
    for pair in (
        (("red", "circle"), ("blue", "square")),
        (("green", "triangle"), ("purple", "circle")),
        (("yellow", "square"), ("cyan", "triangle")),
    )
)
"""Pairs of shapes that training never shows together."""

HELD_OUT_GROUNDS = frozenset(
    {("yellow", "triangle", "striped"), ("purple", "square", "dotted"), ("cyan", "circle", "gradient")}
)
"""Shapes that training never shows on a ground."""

_HELD_OUT_TODAY = frozenset(str(caption) for caption in world.HELD_OUT)


def draw_caption(rng: np.random.Generator, held_out: bool = False) -> Caption:
    """A random caption for training, or one of those that training never shows."""
    while True:
        caption = _draw(rng)
        if caption.held_out == held_out:
            return caption


def _draw(rng: np.random.Generator) -> Caption:
    colours = rng.permutation(list(COLOURS))[: 1 + int(rng.random() < 0.5)]
    place = str(rng.choice(list(OPPOSITE))) if rng.random() < 0.3 else "anywhere"
    bodies = tuple(
        Body(
            colour=str(colour),
            shape=_pick(rng, SHAPES),
            motion=str(rng.choice(MOTIONS, p=_MOTION_WEIGHTS)),
            size=_pick(rng, tuple(SIZES)),
            place=(place, OPPOSITE.get(place, place))[number],
        )
        for number, colour in enumerate(colours)
    )
    caption = Caption(
        bodies,
        tone=_pick(rng, tuple(TONES)),
        pattern=_pick(rng, PATTERNS),
        camera=str(rng.choice(list(CAMERAS), p=(0.6, 0.2, 0.2))),
        light=str(rng.choice(list(LIGHTS), p=(0.75, 0.25))),
    )
    return replace(caption, passing=caption.may_meet and rng.random() < 0.4)


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def _one_of(names: Sequence[str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


_BODY_TEXT = (
    rf"a (?:(?P<size>small|large) )?(?P<colour>{_one_of(tuple(COLOURS))}) (?P<shape>{_one_of(SHAPES)})"
    rf" (?P<motion>{_one_of(MOTIONS)})(?P<place>{_one_of([words for words in PLACES.values() if words])})?"
)
_BODY = re.compile(_BODY_TEXT)
_ANY_BODY = re.sub(r"\?P<\w+>", "?:", _BODY_TEXT)
_GRAMMAR = re.compile(
    rf"(?P<bodies>{_ANY_BODY}(?: and {_ANY_BODY})?)(?P<passing> passing each other)?"
    rf" on a (?P<tone>{_one_of(tuple(TONES))})(?: (?P<pattern>{_one_of(PATTERNS[1:])}))? background"
    rf"(?P<camera>{_one_of(list(CAMERAS.values())[1:])})?(?P<light>{LIGHTS['changing']})?"
)


def _named(names: dict[str, str], words: str | None) -> str:
    return next(name for name, its_words in names.items() if its_words == (words or ""))


def _body(found: re.Match[str]) -> Body:
    place = _named(PLACES, found["place"])
    return Body(found["colour"], found["shape"], found["motion"], found["size"] or "medium", place)


def _is_consistent(caption: Caption) -> bool:
    """Two shapes have two colours and stay in opposite parts or anywhere; only shapes that may meet can pass."""
    if len(caption.bodies) == 2:
        one, two = caption.bodies
        if one.colour == two.colour or OPPOSITE.get(one.place, one.place) != two.place:
            return False
    return caption.may_meet or not caption.passing
