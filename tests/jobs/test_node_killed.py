"""`ray job submit` on a head and two workers, and the worker that holds the gang is killed in the middle."""

import json
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress

import psutil
import pytest
import torch

from pipeline import film
from pipeline.acts import open_take
from pipeline.journal.store import Store
from pipeline.numerics import numerics
from pipeline.spec import parse_storyboard
from pipeline.weights.load import load_model
from tests.jobs.test_submit import BIN, JOB_S, ROOT, LocalCluster

WISH = """
model: tiny
sampling: {steps: 24}
scenes:
  - {prompt: a red circle bounces, duration: 12s}
  - {prompt: a blue square rests, duration: 6s, transition: cut}
"""
KILLED_AT = 5

pytestmark = pytest.mark.slow


class Worker:
    """A node that joins a `LocalCluster`."""

    def __init__(self, cluster, gcs):
        options = [f"--address={gcs}", "--node-ip-address=127.0.0.1", "--num-cpus=3", "--object-store-memory=134217728"]
        command = [BIN / "ray", "start", "--block", "--disable-usage-stats", *options]
        self._process = subprocess.Popen(
            command, env=cluster.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        started = [self._process, *psutil.Process(self._process.pid).children(recursive=True)]
        for process in started:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        self._process.wait()


def events(folder):
    with suppress(FileNotFoundError, ValueError):
        return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return []


def raylet_of(pid):
    return next(parent for parent in psutil.Process(pid).parents() if parent.name() == "raylet")


def test_a_film_outlives_the_node_of_its_gang(tmp_path):
    torch.set_num_threads(1)
    (tmp_path / "wish.yaml").write_text(WISH)
    wish = parse_storyboard(WISH)
    model = load_model(wish.model)
    film.render(open_take(wish, model, Store(str(tmp_path / "alone")), numerics(model)))

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True))
        cluster = stack.enter_context(LocalCluster(folder, {"num-cpus": 0}))
        for _ in range(2):
            stack.enter_context(Worker(cluster, cluster.gcs_address))
        submit = ["job", "submit", "--address", cluster.address, "--working-dir", "."]
        command = ["python", "-m", "jobs.render", str(tmp_path / "wish.yaml"), "-o", str(tmp_path / "film")]
        job = subprocess.Popen(
            [BIN / "ray", *submit, "--", *command, "--budget-mib", "1"],
            cwd=ROOT,
            env=cluster.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until = time.monotonic() + JOB_S
        while not any((e["event"], e.get("chunk")) == ("publish.chunk", KILLED_AT) for e in events(tmp_path / "film")):
            assert job.poll() is None, job.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        gang = next(e for e in events(tmp_path / "film") if e["event"] == "actor.ready" and e["act"] == "denoise")
        raylet_of(gang["pids"][0]).kill()
        said, _ = job.communicate(timeout=JOB_S)
        assert job.returncode == 0, said

    after = events(tmp_path / "film")
    assert "denoise" in {event["act"] for event in after if event["event"] == "actor.replaced"}
    assert (tmp_path / "film" / "film.mp4").read_bytes() == (tmp_path / "alone" / "film.mp4").read_bytes()
