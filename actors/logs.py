"""Logs of one process on standard error: one JSON object per line, with the take, stage, rank and chunk it concerns.

`events.jsonl` records a whole take, in order and next to the film. These lines record one process, such as why it died,
in Ray's log folder of its node. Ray names the file by worker and job, so a line does not repeat them.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from typing_extensions import override

from longtake.pipeline.names import redacted

LOGGER = "longtake"

_bound: dict[str, Any] = {}  # for the whole process, in all threads
_context: ContextVar[dict[str, Any] | None] = ContextVar("longtake_log_context", default=None)


class JsonFormatter(logging.Formatter):
    """A record as one line: time, level, event, bound fields, and the call's own, `extra={"fields": {...}}`."""

    @override
    def format(self, record: logging.LogRecord) -> str:
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
        return redacted(json.dumps(line, default=str))


def configure(stream: TextIO | None = None) -> logging.Logger:
    """The logger of this process, which writes JSON lines to `stream` (default: standard error)."""
    log = logging.getLogger(LOGGER)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    return log


def bind(**fields: Any) -> None:
    """Add `fields` to every line from now on; a field that is None is removed."""
    _bound.update(fields)
    for name in [name for name, value in _bound.items() if value is None]:
        del _bound[name]


@contextmanager
def context(**fields: Any) -> Iterator[None]:
    """Add `fields` to every line of this thread, or of this asyncio task, while the block runs."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)
