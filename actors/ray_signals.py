"""Ray and the signals of the process that uses it: Ray neither changes what they do here, nor receives them itself."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread

_STARTING = Event()


@contextmanager
def own_signals() -> Iterator[None]:
    """Within the block, `ray.init` may be called; SIGTERM then does what it did before.

    Ray sets a handler that ends the process with exit code 15, and leaves it set. The processes of a cluster that is
    started get process groups of their own, so that a signal to the group of this process, such as from `timeout` or a
    closed terminal, reaches this process alone: it still needs them to stop cleanly, and ends them itself.
    """
    before = signal.getsignal(signal.SIGTERM) if current_thread() is main_thread() else None
    received = False
    _STARTING.set()
    try:
        yield
    except SystemExit as end:
        received = before is not None and end.code == signal.SIGTERM
        if not received:
            raise
    finally:
        _STARTING.clear()
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    if received:
        signal.raise_signal(signal.SIGTERM)


def _leave_group() -> None:
    if _STARTING.is_set():
        os.setpgid(0, 0)


os.register_at_fork(after_in_child=_leave_group)  # Ray's children run it, since Ray starts them with a `preexec_fn`
