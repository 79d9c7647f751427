"""`ray job submit` on a head and two workers, and the worker that holds the gang is killed in the middle."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from ray.cluster_utils import Cluster

from longtake.pipeline import film
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take
from longtake.pipeline.weights.load import load_model
from tests.jobs.test_submit import BIN, JOB_S, ROOT, free_ports

STORYBOARD = """
model: tiny
sampling: {steps: 24}
scenes:
  - {prompt: a red circle bounces, duration: 6s}
  - {prompt: a blue square rests, duration: 3s, transition: cut}
"""
KILLED_AT = 2

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


def events(folder):
    with suppress(FileNotFoundError, ValueError):
        return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return []


def raylet_of(pid):
    return next(parent for parent in psutil.Process(pid).parents() if parent.name() == "raylet")


def submit_and_kill(port, folder):
    """Submit the job, and kill every process of its gang's node once `KILLED_AT` chunks are published."""
    submit = ["job", "submit", "--address", f"http://127.0.0.1:{port}", "--working-dir", "."]
    command = [
        sys.executable,
        "-m",
        "longtake.jobs.render",
        str(folder / "film.yaml"),
        "-o",
        str(folder / "film"),
        "--budget-mib",
        "1",
    ]
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    job = subprocess.Popen(
        [BIN / "ray", *submit, "--", *command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + JOB_S
    while not any((e["event"], e.get("chunk")) == ("publish.chunk", KILLED_AT) for e in events(folder / "film")):
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    gang = next(e for e in events(folder / "film") if e["event"] == "actor.ready" and e["act"] == "denoise")
    raylet = raylet_of(gang["pids"][0])
    for process in [raylet, *raylet.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    said, _ = job.communicate(timeout=JOB_S)
    assert job.returncode == 0, said


def test_a_film_outlives_the_node_of_its_gang(tmp_path):
    torch.set_num_threads(1)
    (tmp_path / "film.yaml").write_text(STORYBOARD)
    storyboard = parse_storyboard(STORYBOARD)
    model = load_model(storyboard.model)
    film.render(open_take(plan_film(storyboard, model), model, Store(str(tmp_path / "alone")), numerics(model)))

    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        port, *agents = free_ports("dashboard", "head", "one", "two").values()
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": port, "temp_dir": f"{folder}/ray"}
        head["dashboard_agent_listen_port"] = agents.pop()  # another cluster of this machine may have the usual one
        cluster = Cluster(initialize_head=True, head_node_args=head)
        # As `ray start` writes it; without it Ray sends a job to any cluster that it finds on this machine.
        (Path(folder) / "ray" / "ray_current_cluster").write_text(cluster.address)
        try:
            for agent in agents:
                cluster.add_node(num_cpus=3, object_store_memory=128 * 2**20, dashboard_agent_listen_port=agent)
            submit_and_kill(port, tmp_path)
        finally:
            cluster.shutdown()

    after = events(tmp_path / "film")
    assert "denoise" in {event["act"] for event in after if event["event"] == "actor.replaced"}
    assert (tmp_path / "film" / "film.mp4").read_bytes() == (tmp_path / "alone" / "film.mp4").read_bytes()
