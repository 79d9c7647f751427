"""Serves the page of `longtake watch` on this machine."""

import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from rich.console import Console

from longtake.jobs.feedback import plain_console
from longtake.jobs.interrupt import until_ctrl_c
from longtake.jobs.watch.server import WatchServer
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.root import has_take, take_root
from longtake.pipeline.journal.store import Store


def serve(output: str, port: int, *, open_browser: bool) -> None:
    """Serve the take in `output` on the loopback interface until Ctrl-C; port 0 means any free one. If no render has
    begun there, the page waits for it."""
    store = take_root(output, may_come=True)
    with _server(store, port) as server, until_ctrl_c():
        console = plain_console()
        console.print(f"{server.url}  shows {output}; Ctrl-C stops the page, not the render")
        if not has_take(store):
            console.print("No render has begun there yet; the page waits for it.")
        if open_browser:
            _open(server.url)
        server.serve_forever()


@contextmanager
def shown(store: Store, console: Console) -> Iterator[None]:
    """Serve a take while the block runs, and open a browser where there is a screen."""
    with _server(store, 0) as server:
        Thread(target=server.serve_forever, name="watch", daemon=True).start()
        console.print(f"{server.url}  shows the film while it is rendered")
        _open(server.url)
        try:
            yield
        finally:
            server.shutdown()


def _server(store: Store, port: int) -> WatchServer:
    try:
        return WatchServer(store, port)
    except OSError as error:
        raise SpecError(f"port {port} cannot be used: {error.strerror}; use --port 0 for any free port") from error


def _open(url: str) -> None:
    # Without a screen, the standard library would start a text browser in this terminal.
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)
