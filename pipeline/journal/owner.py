"""The owner of an output root, as a card that other processes read."""

import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from longtake.pipeline.errors import JournalError

NAME = "journal/writer.json"


class OwnerCard(BaseModel):
    """An owner. A damaged card reads as that of an unknown owner.

    Args:
        machine: where `pid` is a process: the start of an operating system, and a namespace of it.
        token: unique to the owner.
        renewals: how often its lease was renewed; a successor observes this count.
        renewed: time of the last renewal by the owner's clock, which may be wrong.
        released: whether the owner has released its lease.
    """

    model_config = ConfigDict(frozen=True)

    host: str = "?"
    pid: int = 0
    machine: str = ""
    started: str = "?"
    token: str = ""
    renewals: int = 0
    renewed: float = 0.0
    released: bool = False

    @classmethod
    def of_this_process(cls) -> Self:
        """The card of an owner that begins now."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            started=started,
            token=token_hex(16),
            renewed=time(),
        )

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """The card that was written."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return cls()

    @property
    def runs(self) -> bool | None:
        """Whether the owner's process is alive; None if it is not one of this machine, or that is not known."""
        if not self.machine or self.machine != _machine():
            return None
        with suppress(psutil.Error, ValueError):
            began = psutil.Process(self.pid).create_time()
            return began < datetime.fromisoformat(self.started).timestamp() + 1  # else its number was used again
        return False

    @property
    def who(self) -> str:
        """The owner in words."""
        return f"process {self.pid} on {self.host}, since {self.started}"

    def refusal(self, url: str) -> JournalError:
        """The error for a second writer."""
        return JournalError(f"{url} is being rendered by {self.who}; wait for it, stop it, or use another -o")


def _machine() -> str:
    """Names this start of the operating system and this namespace of processes, as containers have; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116
    except OSError:
        return ""
