"""A local server that answers like the Hugging Face hub, as far as downloading a repository needs."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """Serves the files of `folder` as repository `nobody/films`, revisions `main` and `v1`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched = folder, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request, body):
        path = request.path.partition("?")[0]
        for prefix, serve in {"/api/models/nobody/films/tree/": self.tree, "/nobody/films/resolve/": self.file}.items():
            if path.startswith(prefix):
                return serve(request, path.removeprefix(prefix), body)
        if path.startswith("/gated/films/"):
            return _say(request, 403, b"", {"X-Error-Code": "GatedRepo"})
        return _say(request, 404, b"", {"X-Error-Code": "RepoNotFound"})

    def tree(self, request, revision, body):
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        listing = [
            {"type": "file", "path": file.relative_to(self.folder).as_posix(), "size": file.stat().st_size, "oid": "0"}
            for file in files
        ]
        _say(request, 200, json.dumps(listing).encode(), {}, body)

    def file(self, request, path, body):
        revision, _, name = path.partition("/")
        if revision not in ("main", "v1", COMMIT):
            return _say(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        if not (self.folder / name).is_file():
            return _say(request, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        if body:
            self.fetched.append(name)
        data = (self.folder / name).read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        return _say(request, 200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)


def _say(request, code, data, headers, body=True):
    request.send_response(code)
    for key, value in {**headers, "Content-Length": str(len(data))}.items():
        request.send_header(key, value)
    request.end_headers()
    if body:
        request.wfile.write(data)
