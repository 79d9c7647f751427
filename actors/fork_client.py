"""Have a fork server start a Ray worker, or start it in this process: Ray runs this file in place of Python.

It runs for every actor, so it imports nothing but the standard library's smallest modules.
"""

import json
import os
import socket
import sys
from pathlib import Path

FORKED = b"+"


def main(path: str, command: list[str]) -> None:
    """Run `command`, the worker's file and its arguments: forked by the server at `path`, or else by a new Python."""
    forked = False
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
            request = json.dumps({"command": command, "folder": str(Path.cwd()), "env": dict(os.environ)})
            socket.send_fds(server, [b"\n"], [0, 1, 2])
            server.sendall(request.encode() + b"\n")
            forked = server.recv(1) == FORKED
            if forked:
                server.recv(1)  # returns once the worker, which holds the other end, has ended
        except OSError:
            pass  # a worker that has been forked is not started again
    if not forked:
        os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
