"""What a process says on its standard error: a JSON object a line, with the take, act, rank and chunk it is about.

`events.jsonl` tells what became of a take, in order and beside the film; these lines tell of one process, such as why
it died, in Ray's log folder of its node. Ray names the file by worker and job, so a line does not repeat them.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = "longtake"

_bound: dict[str, Any] = {}  # of the whole process, whichever thread speaks
_context: ContextVar[dict[str, Any] | None] = ContextVar("longtake_log_context", default=None)


class JsonFormatter(logging.Formatter):
    """A record as one line: time, level, event, what was bound, what the call adds by `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_bound,
            **(_context.get() or {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(stream: TextIO | None = None) -> logging.Logger:
    """The logger of this process, which writes JSON lines to `stream`, standard error unless told."""
    log = logging.getLogger(LOGGER)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    return log


def bind(**fields: Any) -> None:
    """Name `fields` in every line from now on; one that is None is named no more."""
    _bound.update(fields)
    for name in [name for name, value in _bound.items() if value is None]:
        del _bound[name]


@contextmanager
def context(**fields: Any) -> Iterator[None]:
    """Name `fields` in every line of this thread, or of this asyncio task, as long as the block lasts."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)
