"""Signals that end a command: Ctrl-C (SIGINT), SIGTERM (`kill`, containers, batch systems), SIGHUP (a closed terminal).

The first stops the command cleanly, the second ends the process at once. Either way the same command resumes. Exit
codes are 128 plus the number of the signal: 130, 143, 129.
"""

import errno
import os
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from types import FrameType

import typer

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ECHO_S = 0.2
"""`timeout` and shells send SIGTERM or SIGHUP to a process and also to its group: what comes this soon is the same."""


class Interrupted(KeyboardInterrupt):
    """A signal asks the command to end. A note says how to resume."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number

    def __str__(self) -> str:
        what = "interrupted" if self.number == signal.SIGINT else f"stopped by {self.number.name}"
        return "; ".join([what, *getattr(self, "__notes__", ())])

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return 128 + self.number


def _raise(number: signal.Signals) -> None:
    raise Interrupted(number)


@dataclass
class _Received:
    """What this process does at signals, and what it has received."""

    stop: Callable[[signal.Signals], object] = _raise
    first: signal.Signals | None = None
    at_s: float = 0.0
    children: "list[subprocess.Popen[bytes]]" = field(default_factory=list)


_received = _Received()


@contextmanager
def ending_by_signals() -> Iterator[None]:
    """Within the block, the first signal raises `Interrupted` in the main thread, and the second ends the process.

    SIGHUP stays ignored under `nohup`.
    """
    with _handled(_raise):
        yield


@contextmanager
def stop_on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Within the block, the first signal calls `stop`, and the second ends the process. See also `interrupted`."""
    with _handled(lambda _: stop()):
        yield


@contextmanager
def resumable(kept: str) -> Iterator[None]:
    """Within the block, a signal's error says that the same command resumes.

    Args:
        kept: what is kept, such as "finished chunks".
    """
    try:
        yield
    except BaseException as error:
        # An error other than the signal's comes from stopping. An exit code is a child's, which has said it all.
        ended = error if isinstance(error, Interrupted) else received()
        if ended is None or isinstance(error, typer.Exit):
            raise
        ended.add_note(f"run the same command again to resume ({kept} are kept)")
        raise ended from None


def received() -> Interrupted | None:
    """The error of the first signal that this process has received; None if there was none."""
    return None if _received.first is None else Interrupted(_received.first)


@contextmanager
def until_ctrl_c() -> Iterator[None]:
    """Ctrl-C is the usual way to end the block, and no error. Other signals are."""
    try:
        yield
    except KeyboardInterrupt as error:
        if isinstance(error, Interrupted) and error.number != signal.SIGINT:
            raise
        _received.first = None


@contextmanager
def killed_with_this(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Kill `child` at the end of the block, also if the second signal ends this process."""
    _received.children.append(child)
    try:
        yield
    finally:
        _received.children.remove(child)
        if child.poll() is None:
            child.kill()
            child.wait()


@contextmanager
def _handled(stop: Callable[[signal.Signals], object]) -> Iterator[None]:
    numbers = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before, stop_before = {number: signal.signal(number, _handle) for number in numbers}, _received.stop
    _received.stop = stop
    try:
        yield
    finally:
        _received.stop = stop_before
        for number, handler in before.items():
            signal.signal(number, handler)
        if _handle not in before.values():
            _received.first = None


def _handle(received: int, _: FrameType | None) -> None:
    number = signal.Signals(received)
    if number == signal.SIGHUP:
        _leave_closed_terminal()
    if _received.first is None:
        _received.first, _received.at_s = number, monotonic()
        _received.stop(number)
    elif number == signal.SIGINT or monotonic() - _received.at_s > ECHO_S:
        for child in _received.children:
            with suppress(OSError):
                os.kill(child.pid, signal.SIGKILL)
        os._exit(128 + number)


def _leave_closed_terminal() -> None:
    """Write into nothing from now on what would go to a terminal that is closed, and be an error."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
