"""Grades of figures: good, worth a look, or bad, and the limits between them.

A figure without data or without a standard is reported but not judged; its grade is "told".
"""

from dataclasses import dataclass
from typing import Literal

_NOTHING = "-"
Grade = Literal["good", "look", "bad", "told"]


@dataclass(frozen=True)
class Verdict:
    """One figure with its grade.

    Args:
        key: name in JSON.
        title: name in the report.
        value: None if it could not be measured.
        shown: the value, formatted.
        limit: the limit of a good value, such as "at most 1.15".
        says: one sentence that explains the figure.
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
    """Limits of a figure: good up to `good`, worth a look up to `bad`, else bad.

    Args:
        signed: judge the absolute value.
        least: larger is better.
    """

    key: str
    title: str
    good: float
    bad: float
    says: str
    pattern: str = "{:.2f}"
    signed: bool = False
    least: bool = False

    def judge(self, value: float | None) -> Verdict:
        """The verdict on a value; None is reported without a grade."""
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


def unjudged(key: str, title: str, value: float | None, pattern: str, says: str) -> Verdict:
    """A figure that is reported without a grade."""
    return Verdict(key, title, value, _NOTHING if value is None else pattern.format(value), "told", "", says)


def worst(verdicts: tuple[Verdict, ...]) -> Grade:
    """The worst grade of all verdicts; "told" if none is judged."""
    grades = {verdict.grade for verdict in verdicts}
    return next((grade for grade in ("bad", "look", "good") if grade in grades), "told")
