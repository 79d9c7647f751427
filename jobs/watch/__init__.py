"""`longtake watch`: a page on this machine that shows a take while it is rendered."""

import os
import sys
import webbrowser
from contextlib import suppress

from rich.console import Console

from longtake.jobs.watch.server import WatchServer
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store


def watch(output: str, port: int, *, open_browser: bool) -> None:
    """Serve the take in `output` on loopback until Ctrl-C; port 0 takes any free one."""
    try:
        server = WatchServer(Store(output), port)
    except OSError as error:
        raise SpecError(f"port {port} cannot be served: {error.strerror}; use --port 0 for any free one") from error
    with server, suppress(KeyboardInterrupt):
        Console().print(f"{server.url}  shows {output}; Ctrl-C ends it, the render goes on", highlight=False)
        if open_browser and _has_screen():
            webbrowser.open(server.url)
        server.serve_forever()


def _has_screen() -> bool:
    # Without one, the standard library would start a browser for terminals in this very terminal.
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
