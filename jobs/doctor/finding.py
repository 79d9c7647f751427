"""What a check tells: one thing that was tried, and the cure where it does not work."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "FAIL"]
REINSTALL = "rm .venv/.ready && make setup"


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: what was seen, and how to cure it unless the level is ok."""

    check: str
    level: Level
    seen: str
    cure: str = ""


def gib(num_bytes: float) -> str:
    """Bytes for people."""
    return f"{num_bytes / 2**30:.1f} GiB"
