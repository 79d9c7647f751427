"""Readings of films of the second world compared with their captions, for clips of the world and films of a model."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from longtake.pipeline.inspect.prompts import CORNER_S
from longtake.pipeline.inspect.second_world.bodies import SeenBody
from longtake.pipeline.inspect.second_world.reading import Reading
from longtake.pipeline.inspect.sync import TOLERANCE_S, match, merged
from longtake.pipeline.training.second_world.captions import Body, Caption
from longtake.pipeline.training.second_world.moves import FPS, Floats

_EDGE_S = 2.5 / FPS  # from a film's ends, within which a turn cannot be seen


@dataclass(frozen=True)
class Judged:
    """A film of one shot of `seconds`, with what was asked for and what was read."""

    caption: Caption
    reading: Reading
    seconds: float

    def names(self) -> Iterable[tuple[str, bool]]:
        """For each attribute of the ground and of every body, whether it was read."""
        caption, ground = self.caption, self.reading.ground
        for attribute in ("tone", "pattern", "camera", "light"):
            yield attribute, getattr(caption, attribute) == getattr(ground, attribute)
        yield "bed", caption.pattern == self.reading.heard.pattern
        yield "colour", {body.colour for body in caption.bodies} == {body.colour for body in self.reading.bodies}
        for _, body, seen, motion in self.pairs():
            yield "shape", body.shape == seen.shape
            yield "size", body.size == seen.size
            yield "motion", body.motion.removesuffix(" silently") == motion

    def pairs(self) -> Iterable[tuple[int, Body, SeenBody, str]]:
        """Every body that was seen, by colour, with what was seen."""
        for number, body in enumerate(self.caption.bodies):
            for seen, motion in zip(self.reading.bodies, self.reading.happenings.motions, strict=True):
                if seen.colour == body.colour:
                    yield number, body, seen, motion

    def seen_events(self, colour: str) -> Floats:
        """Times of the events of a colour that the picture shows."""
        return self.inner([event.time_s for event in self.reading.happenings.events if event.colour == colour])

    def heard_events(self, colour: str) -> Floats:
        """Times of the events of a colour that are heard; those at a corner count once."""
        times_s = [event.time_s for event in self.reading.heard.events if event.colour == colour]
        return self.inner(merged(times_s, CORNER_S))

    def inner(self, times_s: Sequence[float] | Floats) -> Floats:
        """Those of the times at which events can be seen."""
        times = np.asarray(times_s, dtype=np.float64)
        return times[(times > _EDGE_S) & (times < self.seconds - _EDGE_S)]


class Pooled:
    """Events of several films, matched by colour within each film and counted together."""

    def __init__(self) -> None:
        self._pairs, self._count = 0, 0
        self._offsets_s: list[float] = []

    def add(self, truth: Floats, read: Floats) -> None:
        """Match the events of one colour of one film."""
        found = match(truth, read, TOLERANCE_S)
        self._pairs += len(found.pairs)
        self._count += found.num_events + found.num_onsets
        self._offsets_s += [after - before for before, after in found.pairs]

    @property
    def f1(self) -> float:
        """2 pairs / (events + events)."""
        return 2 * self._pairs / max(1, self._count)

    @property
    def error_ms(self) -> float:
        """Median absolute offset."""
        return 1000 * float(np.median(np.abs(self._offsets_s))) if self._offsets_s else float("nan")

    @property
    def offset_ms(self) -> float:
        """Median offset."""
        return 1000 * float(np.median(self._offsets_s)) if self._offsets_s else float("nan")


def in_sync(judged: Iterable[Judged], of: Callable[[Body], bool] = lambda _: True, shifted: bool = False) -> Pooled:
    """Seen and heard events of the shapes that sound, by colour.

    Args:
        of: chooses bodies.
        shifted: shift the sound of each film by half its length, which gives the figure of chance.
    """
    pooled = Pooled()
    for one in judged:
        for body in one.caption.bodies:
            if body.sounds and of(body):
                heard = one.heard_events(body.colour)
                if shifted:
                    heard = np.sort((heard + one.seconds / 2) % one.seconds)
                pooled.add(one.seen_events(body.colour), heard)
    return pooled
