"""The process that workers are forked from; see `worker_start`.

It is started with the number of a listening socket, on which `fork_client` asks. Its standard input brings the
environment of the workers as one line of JSON, and ends it.
"""

import gc
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from longtake.actors.fork_client import FORKED

LOG = logging.getLogger("longtake.fork_server")

PIPELINE_IMPORTS = ("longtake.pipeline.acts", "longtake.pipeline.upscale_film")
"""Import no Ray, whose library reads environment variables when it is loaded."""

WORKER_IMPORTS = ("longtake.actors.gang", "longtake.actors.upscale_actor", "longtake.actors.event_log_actor")
RAY_IMPORTS = ("ray._private.node", "ray._private.async_compat", "ray._private.runtime_env.setup_hook")
SET_FOR_WORKERS = frozenset({"PYTHONBREAKPOINT", "RAY_LD_PRELOAD_ON_WORKERS", "SPT_NOENV", "OLDPWD", "PWD", "_"})
"""Environment variables that Ray and its shell set for workers and that nothing reads while modules are imported."""

REQUEST_S = 5.0


def serve(listener: socket.socket) -> "Worker | None":
    """Fork a worker for every request at a listening socket, until standard input ends.

    Standard input holds the environment of the workers as one line of JSON. It differs from that of this process in
    variables of Ray only, since other libraries are imported before it is read.

    Returns:
        In a fork, the worker that it is to be; in the server None.
    """
    for name in PIPELINE_IMPORTS:
        importlib.import_module(name)
    line = sys.stdin.buffer.readline()  # the driver knows it once Ray has started
    if not line:
        return None
    env = json.loads(line)
    os.environ.update(env)
    for name in (*RAY_IMPORTS, *WORKER_IMPORTS):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a worker would write to, and so copy, the pages that it shares
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers leave no zombies
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        client, _ = listener.accept()
        worker = _asked(client)
        if worker is not None and _same(worker.env, env):
            try:
                if os.fork() == 0:
                    return worker
                client.sendall(FORKED)
            except OSError:
                LOG.exception("a worker could not be forked")
        client.close()
        if worker is not None:
            worker.close()


@dataclass(frozen=True)
class Worker:
    """A Ray worker that is asked for.

    Args:
        client: waits until the worker has ended, and so closed its connection.
        streams: file descriptors of its standard input, output and error.
        command: its file and arguments.
        folder: its working directory.
        env: its environment variables.
    """

    client: socket.socket
    streams: list[int]
    command: list[str]
    folder: str
    env: Mapping[str, str]

    def close(self) -> None:
        """Close the standard streams, which the worker itself has inherited."""
        for stream in self.streams:
            os.close(stream)

    def run(self) -> None:
        """Be the worker, as if a new Python ran its file."""
        os.setpgid(0, 0)  # Ray ends a worker with its process group
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
        self.close()
        os.chdir(self.folder)
        os.environ.update(self.env)
        sys.argv = self.command
        sys.path[0] = str(Path(self.command[0]).parent)
        runpy.run_path(self.command[0], run_name="__main__")


def _asked(client: socket.socket) -> Worker | None:
    client.settimeout(REQUEST_S)
    streams: list[int] = []
    try:
        _, streams, _, _ = socket.recv_fds(client, 1, 3)
        with client.makefile("rb") as lines:
            return Worker(client, streams, **json.loads(lines.readline()))
    except (OSError, ValueError, TypeError):
        LOG.exception("no request for a worker")
        for stream in streams:
            os.close(stream)
        return None


def _same(env: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(env.get(name) == other.get(name) for name in (env.keys() | other.keys()) - SET_FOR_WORKERS)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        forked = serve(requests)
    if forked is not None:
        forked.run()
