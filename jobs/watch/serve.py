"""Serves the page of `longtake watch` on this machine."""

import os
import sys
import webbrowser
from contextlib import suppress

from rich.console import Console

from longtake.jobs.watch.server import WatchServer
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store


def serve(output: str, port: int, *, open_browser: bool) -> None:
    """Serve the take in `output` on the loopback interface until Ctrl-C; port 0 means any free one."""
    try:
        server = WatchServer(Store(output), port)
    except OSError as error:
        raise SpecError(f"port {port} cannot be used: {error.strerror}; use --port 0 for any free port") from error
    with server, suppress(KeyboardInterrupt):
        Console().print(f"{server.url}  shows {output}; Ctrl-C stops the page, not the render", highlight=False)
        if open_browser and _has_screen():
            webbrowser.open(server.url)
        server.serve_forever()


def _has_screen() -> bool:
    # Without a screen, the standard library would start a text browser in this terminal.
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
