"""A take of five chunks in two scenes, by a tiny random model, that tests of the journal render."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from longtake.pipeline import film
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.observe import SILENT
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take

MODEL = EmbeddedModel.untrained(TINY)
STORYBOARD = parse_storyboard(
    """
model: tiny
seed: 11
sampling: {steps: 1, guidance: 1}
video: {width: 16, height: 16}
scenes:
  - {prompt: a red circle bounces fast, duration: 2.6s}
  - {prompt: a blue square rests, duration: 1.5s}
""",
    (),
)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


class Recorder:
    """Remembers events, and ends the render right after one of them, if asked to."""

    def __init__(self, fatal=None):
        self.events, self._fatal = [], fatal

    def event(self, name, **fields):
        self.events.append((name, fields))
        if (name, fields.get("chunk")) == self._fatal:
            raise KilledError

    def acted(self, act):
        """The chunks that passed an act, in order."""
        return [fields["chunk"] for name, fields in self.events if name == f"{act}.chunk"]


def legs(render: Callable[[Recorder], object], kills) -> Iterator[Recorder]:
    """Render, killed right after each event of `kills` and resumed each time, until it ends: what each leg did."""
    for kill in (*kills, None):
        recorder = Recorder(kill)
        with pytest.raises(KilledError) if kill else nullcontext():
            render(recorder)
        yield recorder


def take_in(store, storyboard=STORYBOARD):
    return open_take(plan_film(storyboard, MODEL), MODEL, store, numerics(MODEL))


def render(store, observer=SILENT, storyboard=STORYBOARD):
    return film.render(take_in(store, storyboard), observer)
