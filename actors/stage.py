"""One act as an actor: it builds its stage once, and then takes one chunk after another."""

from dataclasses import dataclass, field
from typing import Any

import torch
from ray.actor import ActorHandle

from actors.scribe import RemoteObserver
from pipeline.acts import ACTS, Act, Take, open_take
from pipeline.attention.shares import Degrees
from pipeline.errors import JournalError
from pipeline.journal.keys import Parts
from pipeline.journal.store import Store
from pipeline.journal.writer import lend_hand
from pipeline.numerics import numerics
from pipeline.spec import Storyboard
from pipeline.stages.publish import Film
from pipeline.weights.load import load_model


@dataclass(frozen=True)
class Order:
    """What an actor must know to take part in a take.

    Args:
        url: the output root.
        numerics: what the journal's keys promise; an actor that computes otherwise refuses to start.
        threads: compute threads of every actor.
        degrees: how the ranks of the gang share each chunk.
    """

    wish: Storyboard
    url: str
    numerics: Parts
    threads: int
    degrees: Degrees = field(default_factory=Degrees)

    def open(self) -> Take:
        """The take, as this process sees it. Raises `JournalError` where its bits would differ."""
        torch.set_num_threads(self.threads)
        model = load_model(self.wish.model)
        here = numerics(model, self.degrees)
        differ = [
            f"{name} is {here[name]}, not {self.numerics[name]}" for name in here if here[name] != self.numerics[name]
        ]
        if differ:
            raise JournalError(f"this node would render other bits: {'; '.join(differ)}; use the same image everywhere")
        return open_take(self.wish, model, Store(self.url), self.numerics)


class StageActor:
    """An act at work in a process of its own."""

    def __init__(self, act: str, order: Order, scribe: ActorHandle) -> None:
        self._name, self._order, self._observer = act, order, RemoteObserver(scribe)

    def open(self) -> None:
        """Build the act: load the model, plan the film. Apart from construction, so that its errors are its own."""
        self._hand = lend_hand(Store(self._order.url))
        self._act = self._build(self._order.open())

    def _build(self, take: Take) -> Act[Any]:
        return ACTS[self._name](take, self._observer)

    def run(self, *arguments: Any) -> Any:
        """The act's result for one chunk."""
        return self._act(*arguments)


class PublisherActor(StageActor):
    """The publisher, whose film is open from the first segment to `finish`."""

    def open(self) -> None:
        """See `StageActor.open`."""
        super().open()
        self._act.stage.__enter__()

    def finish(self) -> Film:
        """Finish the film."""
        self._act.stage.__exit__(None, None, None)
        film: Film = self._act.stage.film
        return film
