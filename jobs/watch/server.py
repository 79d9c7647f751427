"""A read-only web server for one take, on the loopback interface; the page loads nothing from elsewhere.

/                  the page                /status.json       the progress of the take
/page.js ...       its parts               /events?from=N     the event log from event N on, at most the latest 400
                                           /take/NAME         a file of the take, such as live/master.m3u8
"""

import json
import re
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, unquote

from longtake.jobs.watch.files import opened
from longtake.pipeline.errors import LongtakeError, SpecError
from longtake.pipeline.inspect.status import Status, TakeReader
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import NAME as TAKE
from longtake.pipeline.pages.template import render_page, text_of

PAGE = {
    "/": ("jobs/watch/page.html", "text/html; charset=utf-8"),
    "/page.js": ("jobs/watch/page.js", "text/javascript; charset=utf-8"),
    "/live_player.js": ("jobs/watch/live_player.js", "text/javascript; charset=utf-8"),
    "/hls.mjs": ("jobs/watch/hls.mjs", "text/javascript; charset=utf-8"),
    "/base.css": ("pipeline/pages/base.css", "text/css; charset=utf-8"),
    "/page.css": ("jobs/watch/page.css", "text/css; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' data:;"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.ASCII | re.IGNORECASE)
_BLOCK = 1 << 20


class WatchServer(ThreadingHTTPServer):
    """Serves a take. Until a render begins in the store, the page waits for it.

    Args:
        port: 0 means any free port.
    """

    daemon_threads = True  # a browser keeps its connections open, which must not keep this process alive

    def __init__(self, store: Store, port: int = 0) -> None:
        self.store, self.take = store, _SharedTake(store)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.server_port}/"


class _SharedTake:
    """One reader for all threads of the server; it reads the take at most four times a second."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._read: tuple[TakeReader, Status] | None = None
        self._next_read = 0.0

    def status(self) -> Status:
        with self._lock:
            return self._latest()[1]

    def events(self, start: int) -> dict[str, Any]:
        """The events from number `start` on that are in memory; all of those if the log was restarted."""
        with self._lock:
            reader, _ = self._latest()
            held, count = reader.events, reader.num_events
            first = max(start if 0 <= start <= count else 0, count - len(held))
            return {"from": first, "next": count, "events": list(islice(held, first - (count - len(held)), None))}

    def _latest(self) -> tuple[TakeReader, Status]:
        """The reader and the status. Raises `SpecError` while the store holds no take."""
        if self._read is None:
            if not self._store.exists(TAKE):
                raise SpecError(f"No render has begun in {self._store.url} yet; this page waits for it.")
            reader = TakeReader(self._store)
            self._read = reader, reader.read()
        elif monotonic() >= self._next_read:
            self._read, self._next_read = (self._read[0], self._read[0].read()), monotonic() + 0.25
        return self._read


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds until an idle connection is closed

    def do_GET(self) -> None:
        try:
            self._route()
        except ConnectionError:
            self.close_connection = True  # the viewer has left, or has seeked
        except FileNotFoundError:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")
        except (LongtakeError, OSError) as error:
            body = json.dumps({"error": str(error)}).encode()
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "application/json", body)

    do_HEAD = do_GET  # noqa: N815

    def _route(self) -> None:
        if not self._is_from_this_machine():
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"only this machine may open this page\n")
            return
        path, _, query = self.path.partition("?")
        if path in PAGE:
            name, content_type = PAGE[path]
            text = render_page(name) if name.endswith(".html") else text_of(name)
            self._answer(HTTPStatus.OK, content_type, text.encode())
        elif path == "/status.json":
            self._answer(HTTPStatus.OK, "application/json", self.server.take.status().model_dump_json().encode())
        elif path == "/events":
            start = parse_qs(query).get("from", ["0"])[0]
            events = self.server.take.events(int(start) if start.isdecimal() else 0)
            self._answer(HTTPStatus.OK, "application/json", json.dumps(events).encode())
        elif path.startswith("/take/"):
            self._send_file(unquote(path.removeprefix("/take/")))
        else:
            raise FileNotFoundError(path)

    def _is_from_this_machine(self) -> bool:
        # A foreign site can make its name resolve to 127.0.0.1, but not change the Host header of its visitors.
        return _LOOPBACK.fullmatch(self.headers.get("Host", "")) is not None

    def _send_file(self, name: str) -> None:
        with opened(self.server.store, name) as file:
            wanted = self._range(file.size)
            if wanted is None:
                self._start(HTTPStatus.OK, file.content_type, file.size)
                wanted = range(file.size)
            elif not wanted:
                self._start(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, file.content_type, 0, f"bytes */{file.size}")
            else:
                span = f"bytes {wanted.start}-{wanted.stop - 1}/{file.size}"
                self._start(HTTPStatus.PARTIAL_CONTENT, file.content_type, len(wanted), span)
            for block in _blocks(wanted) if self.command == "GET" else ():
                self.wfile.write(file.read(block.start, block.stop))

    def _range(self, size: int) -> range | None:
        """The requested range (RFC 9110, 14.2): empty if outside the file, None without a supported Range header."""
        unit, _, span = self.headers.get("Range", "").partition("=")
        first, dash, last = span.strip().partition("-")
        if unit != "bytes" or not dash or not (first + last).isdecimal():
            return None
        if not first:
            return range(max(0, size - int(last)), size)
        return range(int(first), min(int(last) + 1, size) if last else size)

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self._start(status, content_type, len(body))
        if self.command == "GET":
            self.wfile.write(body)

    def _start(self, status: HTTPStatus, content_type: str, length: int, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log no requests, to keep the terminal clear."""


def _blocks(span: range) -> Iterator[range]:
    for start in range(span.start, span.stop, _BLOCK):
        yield range(start, min(start + _BLOCK, span.stop))
