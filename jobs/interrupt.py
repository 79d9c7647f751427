"""Ctrl-C in two steps: the first stops cleanly, the second ends the process at once. Both can be resumed from."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

EXIT_CODE = 130


def interrupt_once() -> None:
    """From now on, the first Ctrl-C raises `KeyboardInterrupt` and the second ends the process."""

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, _exit)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, first)


@contextmanager
def resumable(kept: str) -> Iterator[None]:
    """Within the block, Ctrl-C prints that the same command resumes.

    Args:
        kept: what is kept, such as "finished chunks".
    """
    try:
        yield
    except KeyboardInterrupt:
        say_resumable(kept)
        raise


def say_resumable(kept: str) -> None:
    """Print that the command was interrupted, and that the same command resumes."""
    print(f"longtake: interrupted; run the same command again to resume ({kept} are kept)", file=sys.stderr)


@contextmanager
def stop_on(signals: Sequence[signal.Signals], stop: Callable[[], object]) -> Iterator[None]:
    """Within the block, the first of `signals` calls `stop` and the second ends the process."""

    def first(*_: object) -> None:
        for number in signals:
            signal.signal(number, _exit)
        stop()

    before = {number: signal.signal(number, first) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(*_: object) -> None:
    os._exit(EXIT_CODE)
