"""SMPTE ST 12-1 timecode: a clock that counts frames, with or without the numbers that 29.97 frames a second drop."""

import re
from fractions import Fraction

_TIMECODE = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})([:;.])(\d{1,3})", re.ASCII)
_DROPPED_SHARE = 15  # of 30 numbers two are dropped at the start of a minute, but of every tenth


def timecode_after(text: str, frames: int, rate: Fraction) -> str:
    """The timecode `frames` frames after `text`; `text` itself if it is no timecode.

    Args:
        rate: frames per second, such as 30000/1001.
    """
    match = _TIMECODE.fullmatch(text.strip())
    if match is None:
        return text
    hours, minutes, seconds, number = (int(match[at]) for at in (1, 2, 3, 5))
    nominal, drops = round(rate), match[4] != ":"
    dropped = nominal // _DROPPED_SHARE if drops else 0
    minute = 60 * hours + minutes
    count = (60 * minute + seconds) * nominal + number - dropped * (minute - minute // 10)
    return _written(count + frames, nominal, dropped, match[4])


def _written(count: int, nominal: int, dropped: int, sign: str) -> str:
    per_minute = 60 * nominal - dropped
    per_ten = 10 * per_minute + dropped
    count %= 24 * 6 * per_ten
    tens, rest = divmod(count, per_ten)
    if rest >= 60 * nominal:  # after the first minute of ten, which drops none
        later, rest = divmod(rest - 60 * nominal, per_minute)
        minute, frame = 10 * tens + 1 + later, rest + dropped
    else:
        minute, frame = 10 * tens, rest
    seconds, number = divmod(frame, nominal)
    return f"{minute // 60:02d}:{minute % 60:02d}:{seconds:02d}{sign}{number:02d}"
