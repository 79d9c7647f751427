"""Workers of a cluster of one's own are forked, and start in the ordinary way wherever they cannot be."""

import json
import os
import socket
import subprocess
import sys

import pytest

from longtake.actors import fork_client

SERVER = """
import socket, sys
from longtake.actors import fork_server
fork_server.PIPELINE_IMPORTS = fork_server.RAY_IMPORTS = fork_server.WORKER_IMPORTS = ("json.tool",)
with socket.socket(fileno=int(sys.argv[1])) as requests:
    worker = fork_server.serve(requests)
if worker is not None:
    worker.run()
"""
ENV = dict(os.environ)  # pytest changes it with every test
WORKER = """
import json, os, sys
there = {"parent": os.getppid(), "group": os.getpgrp() == os.getpid(), "imported": "json.tool" in sys.modules}
print(json.dumps({**there, "arguments": sys.argv[1:], "folder": os.getcwd(), "name": __name__}))
sys.exit(3)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "worker.py").write_text(WORKER)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        command, inherited = [sys.executable, "-c", SERVER, str(listener.fileno())], [listener.fileno()]
        process = subprocess.Popen(command, env=ENV, stdin=subprocess.PIPE, pass_fds=inherited)
    process.stdin.write(json.dumps({**ENV, "RAY_JOB_ID": "01"}).encode() + b"\n")
    process.stdin.flush()
    yield process, folder
    process.communicate(timeout=10)


def worker(folder, **env):
    command = [sys.executable, "-S", "-E", fork_client.__file__, folder / "socket", folder / "worker.py", "a", "b c"]
    ended = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, cwd=folder, env={**ENV, "RAY_JOB_ID": "01", **env}, timeout=20
    )
    return ended, json.loads(ended.stdout)


def test_a_worker_is_forked_and_told_what_it_would_be_told_otherwise(server):
    process, folder = server
    ended, told = worker(folder)
    assert ended.returncode == 0
    assert told == {
        "parent": process.pid,
        "group": True,  # Ray ends a worker with its process group
        "imported": True,
        "arguments": ["a", "b c"],
        "folder": str(folder),
        "name": "__main__",
    }


def test_another_environment_starts_an_ordinary_worker(server):
    process, folder = server
    ended, told = worker(folder, OMP_NUM_THREADS="7")
    assert (ended.returncode, told["imported"], told["parent"] == process.pid) == (3, False, False)


@pytest.mark.parametrize("request_", [b"", b"\n", b"\nnot JSON\n", b'\n{"command": []}\n'])
def test_what_is_no_request_ends_no_server(server, request_):
    process, folder = server
    worker(folder)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "socket"))
        client.sendall(request_)
    assert worker(folder)[1]["parent"] == process.pid


def test_without_a_server_workers_start_in_the_ordinary_way(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(tmp_path / "socket"))
    assert worker(tmp_path)[0].returncode == 3
