"""An S3 server on loopback that fails as it is told to: moto, behind a proxy."""

import threading
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

from moto.server import ThreadedMotoServer

SLOW_S = 4.0
FAULTS = ("500", "503", "slow", "cut-upload", "cut-answer", "lost-answer")

Plan = Callable[[str, str], str]
"""Method and path -> one of `FAULTS`, or "" for none."""


class FaultyS3:
    """`url` is where it listens; `plan` may be changed at any time; `faults` are those that happened."""

    def __init__(self) -> None:
        self.plan: Plan = lambda _method, _path: ""
        self.faults: list[str] = []
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._proxy.daemon_threads = True
        self._proxy.s3 = self
        self._one_put = threading.Lock()  # moto looks first and puts then

    def __enter__(self) -> "FaultyS3":
        self._moto.start()
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()

    def forward(self, method, path, body, headers):
        """What moto answers: status, headers, body."""
        with self._one_put:
            connection = HTTPConnection(*self._moto.get_host_and_port())
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        s3, length = self.server.s3, int(self.headers.get("Content-Length", 0))
        fault = s3.plan(self.command, self.path)
        if fault:
            s3.faults.append(fault)
        if fault == "cut-upload":
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault in ("500", "503"):
            code = {"500": "InternalError", "503": "SlowDown"}[fault]
            self._answer(int(fault), [], f"<Error><Code>{code}</Code><Message>planned</Message></Error>".encode())
            return
        if fault == "slow":
            sleep(SLOW_S)
        status, headers, data = s3.forward(self.command, self.path, body, dict(self.headers))
        if fault == "lost-answer":
            self._hang_up()
            return
        self._answer(status, headers, data, cut=fault == "cut-answer")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 (the base class names them)

    def _answer(self, status, headers, data, *, cut=False) -> None:
        with suppress(OSError):  # the client has given up
            self.send_response(status)
            kept = [(name, value) for name, value in headers if name.lower() not in ("connection", "date", "server")]
            if not any(name.lower() == "content-length" for name, _ in kept):
                kept.append(("Content-Length", str(len(data))))
            for name, value in kept:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            self.wfile.flush()
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""
