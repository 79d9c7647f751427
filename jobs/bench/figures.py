"""What a bench is: its figures, their limits, and how much work a measurement does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")

Size = Literal["full", "quick", "smoke"]
"""How much work a bench does. "quick" keeps the limits with less work. "smoke" does the least work that runs the code
of the bench once; its figures mean nothing."""


@dataclass(frozen=True)
class BenchOptions:
    """Options of every bench.

    Args:
        repeat: how often to measure; None is the bench's own number, or once if the size is not "full".
        seed: the seed of everything random.
        size: how much work to do.
        ranks: how many ranks to compare, for benches that compare gangs.
        model: the model to judge, for benches that judge one; None is the shipped one.
    """

    repeat: int | None = None
    seed: int = 0
    size: Size = "full"
    ranks: int | None = None
    model: str | None = None

    def pick(self, full: T, quick: T, smoke: T) -> T:
        """The argument that is named like the size."""
        return {"full": full, "quick": quick, "smoke": smoke}[self.size]


@dataclass(frozen=True)
class Figure:
    """What a figure means, in one line, and its limit, if it has one."""

    meaning: str
    at_most: float | None = None
    at_least: float | None = None

    def kept(self, value: float) -> bool:
        """Whether `value` keeps the limit."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    @property
    def limit(self) -> float | None:
        """The limit as a number; no figure has two."""
        return self.at_most if self.at_most is not None else self.at_least


Measure = Callable[[BenchOptions], Mapping[str, float]]
"""Measures all figures of a bench once."""


@dataclass(frozen=True)
class Bench:
    """A bench: its figures and what measures all of them.

    Args:
        measure: "module:name" of a `Measure`.
        repeats: how often to measure at full size; 1 where one measurement already repeats its work.
    """

    figures: Mapping[str, Figure]
    measure: str
    repeats: int = 3

    def num_runs(self, options: BenchOptions) -> int:
        """How often to measure."""
        return options.repeat or options.pick(full=self.repeats, quick=1, smoke=1)
