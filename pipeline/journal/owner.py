"""The owner of an output root, as a card that other processes read."""

import os
import socket
from datetime import UTC, datetime
from secrets import token_hex
from time import time
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from longtake.pipeline.errors import JournalError

NAME = "journal/writer.json"


class OwnerCard(BaseModel):
    """An owner. A damaged card reads as that of an unknown owner.

    Args:
        token: unique to the owner.
        renewals: how often its lease was renewed; a successor observes this count.
        renewed: time of the last renewal by the owner's clock, which may be wrong.
        released: whether the owner has released its lease.
    """

    model_config = ConfigDict(frozen=True)

    host: str = "?"
    pid: int = 0
    started: str = "?"
    token: str = ""
    renewals: int = 0
    renewed: float = 0.0
    released: bool = False

    @classmethod
    def of_this_process(cls) -> Self:
        """The card of an owner that begins now."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(host=socket.gethostname(), pid=os.getpid(), started=started, token=token_hex(16), renewed=time())

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """The card that was written."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return cls()

    @property
    def who(self) -> str:
        """The owner in words."""
        return f"process {self.pid} on {self.host}, since {self.started}"

    def refusal(self, url: str) -> JournalError:
        """The error for a second writer."""
        return JournalError(f"{url} is being rendered by {self.who}; wait for it, stop it, or use another -o")
