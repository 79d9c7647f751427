"""Signals while a command is still imported, before `interrupt.py` can stop it cleanly: one line and the exit code."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Within the block, Ctrl-C, SIGTERM and SIGHUP end the process at once, unless another handler is set."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, _end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(received: int, _: FrameType | None) -> None:
    number = signal.Signals(received)
    what = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    with suppress(OSError):  # of a terminal that is closed
        os.write(2, f"longtake: {what}\n".encode())
    os._exit(128 + number)
