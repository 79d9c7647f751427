"""Workers of a cluster of this machine are forked, and start in the ordinary way wherever they cannot be."""

import json
import os
import socket
import subprocess
import sys
from contextlib import closing

import psutil
import pytest
import ray

from longtake.actors import fork_client, worker_start
from longtake.actors.handles import runtime_env
from longtake.actors.pool_config import actor_env

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


class Parent:
    def command(self):
        return psutil.Process().parent().cmdline()


@pytest.mark.usefixtures("ray_cluster")
def test_workers_of_a_cluster_of_this_machine_are_forked():
    actor = ray.remote(Parent).options(num_cpus=0, runtime_env=runtime_env(actor_env(1))).remote()
    assert worker_start.SERVER in ray.get(actor.command.remote())
    ray.kill(actor)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "change",
    [
        lambda node: [node, {**node, "NodeID": "another"}],
        lambda node: [{**node, "RayletSocketName": "/of/another/machine"}],
        lambda node: [{**node, "Labels": {"ray.io/node-group": "workers"}}],
    ],
)
def test_where_workers_may_start_on_another_machine_they_start_in_the_ordinary_way(monkeypatch, change):
    [node] = [node for node in ray.nodes() if node["Alive"]]
    monkeypatch.setattr(ray, "nodes", lambda: change(node))
    with closing(worker_start.ForkServers()) as forks:
        assert forks.command(actor_env(1)) is None
