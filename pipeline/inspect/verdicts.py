"""Grades of figures: good, worth a look, or bad, and the limits between them.

A figure without data or without a standard is reported but not judged; its grade is "told".
"""

import re
from dataclasses import dataclass
from typing import Literal

_NOTHING = "-"
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
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
    """Limits of a figure: good up to `good`, worth a look up to `bad`, else bad. Figures are judged as they are shown,
    so that a shown 0.80 never misses a limit of 0.80.

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
        size, good, bad = (self._rounded(number) for number in (value, self.good, self.bad))
        if self.least:
            size, good, bad = -size, -good, -bad
        elif self.signed:
            size = abs(size)
        return "good" if size <= good else "look" if size <= bad else "bad"

    def _rounded(self, value: float) -> float:
        """The number that is shown for `value`; `value` itself if that is not finite."""
        number = _NUMBER.search(self.pattern.format(value))
        return value if number is None else float(number[0])

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
