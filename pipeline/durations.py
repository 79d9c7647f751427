"""Durations and rates as people write them: `12s`, `1m30s`, `48f`, `23.976`."""

import re
from fractions import Fraction
from math import isfinite
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from longtake.pipeline.errors import SpecError

MAX_FILM_S = 100 * 3600


_DURATION = re.compile(
    r"(?:(?P<h>\d{1,9}(?:\.\d{1,9})?)h)?(?:(?P<m>\d{1,9}(?:\.\d{1,9})?)m(?!s))?"
    r"(?:(?P<s>\d{1,9}(?:\.\d{1,9})?)s)?(?:(?P<ms>\d{1,9})ms)?(?:(?P<f>\d{1,9})f)?",
    re.ASCII,
)


_SECONDS = {"h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}


_RATE = re.compile(r"\d{1,12}(\.\d{1,18}|/0*[1-9]\d{0,11})?", re.ASCII)


# Broadcast rates that people write as decimals, such as 23.976 or 29.97.
_NTSC_RATES = tuple(Fraction(nominal * 1000, 1001) for nominal in (12, 15, 24, 30, 48, 60, 120))


def parse_duration(text: str) -> tuple[Fraction, int]:
    """Exact seconds and whole frames of a duration such as `12s`, `1.5s`, `1m30s`, `500ms` or `48f`."""
    match = _DURATION.fullmatch(text.replace(" ", ""))
    if match is None or not match[0]:
        raise SpecError("write a number with its unit: 12s, 1.5s, 1m30s, 2h, 500ms, or 48f for frames")
    seconds = sum((Fraction(match[unit]) * scale for unit, scale in _SECONDS.items() if match[unit]), Fraction(0))
    return seconds, int(match["f"] or 0)


def parse_fps(value: object) -> Fraction:
    """The exact rate of `16`, `12.5` or `24000/1001`. A decimal near a broadcast rate (`23.976`) means that rate."""
    if not _RATE.fullmatch(str(value)):
        raise SpecError("write a rate such as 16, 23.976 or 24000/1001")
    fps = Fraction(str(value))
    if "." in str(value):
        fps = next((rate for rate in _NTSC_RATES if abs(rate - fps) < Fraction(1, 200)), fps)
    if not 1 <= fps <= 240:
        raise SpecError("use 1 to 240 frames per second")
    if fps.numerator >= 2**31:
        raise SpecError(f"no container counts time that finely; use {fps.limit_denominator(1001)}")
    return fps


def seconds_at(text: str, fps: Fraction) -> Fraction:
    """The exact seconds of a duration whose frames are counted at `fps`."""
    seconds, frames = parse_duration(text)
    return seconds + frames / fps


def check_duration(value: object) -> str:
    """A duration as it was written. Raises `SpecError` if it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        raise SpecError(f"it has no unit; write {value}s for seconds or {value}f for frames")
    if not isinstance(value, str):
        raise SpecError("write a number with its unit, such as 12s or 48f")
    seconds, frames = parse_duration(value)
    if seconds == 0 and frames == 0:
        raise SpecError("it lasts no time; make it at least 1f")
    if seconds > MAX_FILM_S:
        raise SpecError(f"a film lasts at most {MAX_FILM_S // 3600}h; split it into several")
    return value


def check_moment(value: object) -> str:
    """A moment of a scene as it was written. Raises `SpecError` if it is none."""
    try:
        parse_duration(value if isinstance(value, str) else "")
    except SpecError:
        raise SpecError(f"{value!r} is no moment of the scene; write it with its unit: 0s, 2.5s, or 40f") from None
    assert isinstance(value, str)
    return value


Fps = Annotated[Fraction, BeforeValidator(parse_fps), PlainSerializer(str)]
