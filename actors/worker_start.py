"""Start the workers of a cluster of this machine alone by forking a process that has imported what they import.

A worker that imports Ray, PyTorch and longtake for itself takes 6 s of CPU time to start; a forked one takes 0.1 s, and
shares the memory of the imported code. Ray starts a worker with the command in the runtime environment's
`py_executable`, here `fork_client`, which asks a `fork_server`. Whatever the server does not answer, such as a request
with another environment, or one after it has ended, is started in the ordinary way.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import ray

from longtake.actors import fork_client
from longtake.actors.nodes import may_grow

SERVER = "longtake.actors.fork_server"
LONGEST_PATH = 100
"""Bytes of a socket's path; Linux takes 107."""

OWN_TO_RAYLET = "LD_PRELOAD"
"""The environment variable that Ray sets for a raylet and not for its workers."""

PLAIN_JOBS = frozenset({"env_vars", "working_dir"})
"""What the runtime environment of a job may name without another Python, container or wrapper for its workers."""


class ForkServers:
    """The fork servers of a cluster that this process uses, one for each environment of its actors.

    Args:
        env: environment variables of the first actors of a cluster that is about to start; their server imports what
            needs no Ray meanwhile.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._resources = ExitStack()
        self._folder = Path(self._resources.enter_context(TemporaryDirectory(prefix="lt-", ignore_cleanup_errors=True)))
        self._servers: dict[frozenset[tuple[str, str]], _Server] = {}
        self._commands: dict[frozenset[tuple[str, str]], str | None] = {}
        if env is not None:
            self._start(env, os.environ)

    def command(self, env: Mapping[str, str]) -> str | None:
        """The `py_executable` of actors with these environment variables; None where none can be served."""
        if (raylet := _only_raylet()) is None:
            return None
        key = frozenset(env.items())
        if key not in self._commands:
            self._commands[key] = self._serve(key, env, raylet)
        return self._commands[key]

    def close(self) -> None:
        """End the servers; the workers that they have forked are Ray's to end."""
        self._resources.close()

    def _serve(self, key: frozenset[tuple[str, str]], env: Mapping[str, str], raylet: psutil.Process) -> str | None:
        inherited = {name: value for name, value in raylet.environ().items() if name != OWN_TO_RAYLET}
        if "PYTHONPATH" in os.environ:  # in a job it begins with the job's working directory
            inherited["PYTHONPATH"] = os.environ["PYTHONPATH"]
        if key not in self._servers and not self._start(env, inherited):
            return None
        # Ray's library reads both variables when it is loaded.
        ray_env = {"RAY_RAYLET_PID": str(raylet.pid), "RAY_JOB_ID": ray.get_runtime_context().get_job_id()}
        server = self._servers[key]
        server.serve({**inherited, **ray_env, **env})
        return shlex.join([sys.executable, "-S", "-E", fork_client.__file__, str(server.path)])

    def _start(self, env: Mapping[str, str], inherited: Mapping[str, str]) -> bool:
        path = self._folder / str(len(self._servers))
        if sys.platform != "linux" or len(os.fsencode(path)) > LONGEST_PATH:
            return False
        server = self._servers[frozenset(env.items())] = _Server(path, {**inherited, **env})
        self._resources.callback(server.stop)
        return True


def _only_raylet() -> psutil.Process | None:
    """The process that starts the workers of the cluster's only node, if that is this machine."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    job: Mapping[str, object] = ray.get_runtime_context().runtime_env
    if len(nodes) != 1 or may_grow(nodes) or job.keys() - PLAIN_JOBS:
        return None
    place = f"--raylet_socket_name={nodes[0]['RayletSocketName']}"
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "raylet" and place in process.cmdline() and process.uids().real == os.getuid():
                return process
    return None


class _Server:
    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        self.path = path
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(128)  # clients may ask while the server still imports
            self._process = subprocess.Popen(
                [sys.executable, "-m", SERVER, str(listener.fileno())],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for the process that asked for the actors
            )

    def serve(self, env: Mapping[str, str]) -> None:
        """Serve workers with this environment, which differs from the server's own in variables of Ray only."""
        assert self._process.stdin is not None, "it is a pipe"
        with suppress(BrokenPipeError):  # it has ended: workers start in the ordinary way
            self._process.stdin.write(json.dumps(dict(env)).encode() + b"\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
