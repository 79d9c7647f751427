"""What a figure means: good, worth a look, or bad, and where the line is drawn.

A figure that cannot be judged, for want of data or of a standard, is told without a verdict.
"""

from dataclasses import dataclass
from typing import Literal

_NOTHING = "-"
Grade = Literal["good", "look", "bad", "told"]


@dataclass(frozen=True)
class Verdict:
    """One figure with its judgement.

    Args:
        key: what it is called in JSON.
        title: what it is called on paper.
        value: None where there is nothing to measure.
        shown: the value as a person reads it.
        limit: what good means, such as "at most 1.15".
        says: one sentence.
    """

    key: str
    title: str
    value: float | None
    shown: str
    grade: Grade
    limit: str
    says: str


@dataclass(frozen=True)
class Scale:
    """How a figure is judged: good up to `good`, worth a look up to `bad`, bad beyond; by size where `signed`."""

    key: str
    title: str
    good: float
    bad: float
    says: str
    pattern: str = "{:.2f}"
    signed: bool = False
    least: bool = False

    def judge(self, value: float | None) -> Verdict:
        """The verdict on a value; without one, the figure is told to be missing."""
        return Verdict(self.key, self.title, value, self._shown(value), self._grade(value), self._limit(), self.says)

    def _grade(self, value: float | None) -> Grade:
        if value is None:
            return "told"
        size = -value if self.least else abs(value) if self.signed else value
        good, bad = (-self.good, -self.bad) if self.least else (self.good, self.bad)
        return "good" if size <= good else "look" if size <= bad else "bad"

    def _shown(self, value: float | None) -> str:
        return _NOTHING if value is None else self.pattern.format(value)

    def _limit(self) -> str:
        how = "at least" if self.least else "within" if self.signed else "at most"
        return f"{how} {self.pattern.replace('+', '').format(self.good)}"


def told(key: str, title: str, value: float | None, pattern: str, says: str) -> Verdict:
    """A figure without a judgement."""
    return Verdict(key, title, value, _NOTHING if value is None else pattern.format(value), "told", "", says)


def worst(verdicts: tuple[Verdict, ...]) -> Grade:
    """The worst grade among them."""
    grades = {verdict.grade for verdict in verdicts}
    return next((grade for grade in ("bad", "look", "good") if grade in grades), "told")
