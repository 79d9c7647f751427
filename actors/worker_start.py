"""Start the workers of a cluster on this machine by forking a process that has imported what they import.

A worker that imports Ray, PyTorch and longtake for itself takes 6 s of CPU time to start; a forked one takes 0.1 s, and
shares the memory of the imported code. Ray starts a worker with the command in the runtime environment's
`py_executable`, here `fork_client`, which asks a `fork_server`. Whatever the server does not answer, such as a request
with another environment, or one after it has ended, is started in the ordinary way.
"""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import ray

from longtake.actors import fork_client

SERVER = "longtake.actors.fork_server"
LONGEST_PATH = 100
"""Bytes of a socket's path; Linux takes 107."""


class ForkServers:
    """The fork servers of a cluster that this process has just started, one for each environment of its actors."""

    def __init__(self) -> None:
        self._env = dict(os.environ)  # as the cluster has inherited it; this process may change its own
        self._resources = ExitStack()
        self._folder = Path(self._resources.enter_context(TemporaryDirectory(prefix="lt-", ignore_cleanup_errors=True)))
        self._commands: dict[frozenset[tuple[str, str]], str] = {}

    def command(self, env: Mapping[str, str]) -> str | None:
        """The `py_executable` of actors with these environment variables; None where none can be served."""
        key = frozenset(env.items())
        if key not in self._commands:
            path = self._folder / str(len(self._commands))
            raylets = [child.pid for child in psutil.Process().children() if child.name() == "raylet"]
            if sys.platform != "linux" or len(raylets) != 1 or len(os.fsencode(path)) > LONGEST_PATH:
                return None
            # Ray's library reads both variables when it is loaded.
            ray_env = {"RAY_RAYLET_PID": str(raylets[0]), "RAY_JOB_ID": ray.get_runtime_context().get_job_id()}
            self._resources.callback(_stop, _start(path, {**self._env, **ray_env, **env}))
            self._commands[key] = shlex.join([sys.executable, "-S", "-E", fork_client.__file__, str(path)])
        return self._commands[key]

    def close(self) -> None:
        """End the servers; the workers that they have forked are Ray's to end."""
        self._resources.close()


def _start(path: Path, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)  # clients may ask while the server still imports
        return subprocess.Popen(
            [sys.executable, "-m", SERVER, str(listener.fileno())],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the process that asked for the actors
        )


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.kill()
    server.communicate()
