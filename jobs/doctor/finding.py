"""The result of a check: what was seen, and the fix for a problem."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "FAIL"]
REINSTALL = "rm .venv/.ready && make setup"


@dataclass(frozen=True)
class Finding:
    """One result of a check: what was seen, and the fix unless the level is ok."""

    check: str
    level: Level
    seen: str
    fix: str = ""


def gib(num_bytes: float) -> str:
    """A number of bytes in GiB."""
    return f"{num_bytes / 2**30:.1f} GiB"
