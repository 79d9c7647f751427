"""Jobs on a cluster on this machine, with a token: by `ray job submit --working-dir .`, and by `longtake submit`."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from longtake.actors.metrics import EXPORTED

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 2s}]}"
START_S, JOB_S = 120, 240

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


class LocalCluster:
    """`ray start --head --block` in a process group of its own: own ports, own folder, own token.

    Args:
        options: more of `ray start`, or others, by their names.
        env: more of its environment.
    """

    def __init__(self, folder, options=None, env=None):
        self.folder = Path(folder)
        (self.folder / "token").write_text(secrets.token_hex(32))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.env = {
            **inherited,
            "PATH": f"{BIN}:{os.environ['PATH']}",  # `python` is the one that has the dependencies, as in an image
            "RAY_prestart_worker_first_driver": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            **(env or {}),
        }
        ports = free_ports("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
        self.address = f"http://127.0.0.1:{ports['dashboard-port']}"
        self.gcs_address = f"127.0.0.1:{ports['port']}"
        options = {
            "node-ip-address": "127.0.0.1",
            "dashboard-host": "127.0.0.1",
            "num-cpus": 4,
            "object-store-memory": 256 * 2**20,
            "temp-dir": self.folder / "ray",
            **ports,
            **(options or {}),
        }
        command = [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        self._log = (self.folder / "start.log").open("wb")
        self._process = subprocess.Popen(
            command, env=self.env, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def __enter__(self):
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            # The dashboard answers before the node that it belongs to stands.
            started = "Ray runtime started" in (self.folder / "start.log").read_text()
            if started and self.answer("/api/version") in (200, 401):
                return self
            time.sleep(0.5)
        said = (self.folder / "start.log").read_text()
        self.__exit__()
        pytest.fail(f"no dashboard at {self.address}: {said}")

    def __exit__(self, *_):
        self._process.send_signal(signal.SIGTERM)  # its head node goes with it
        try:
            self._process.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._log.close()

    def answer(self, path):
        """The status of a call without a token, or None while there is no answer."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return None

    def submit(self, *arguments):
        command = [BIN / "ray", "job", "submit", "--address", self.address, "--working-dir", ".", "--", *arguments]
        job = subprocess.run(
            command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=JOB_S, check=False
        )
        return job.returncode, job.stdout + job.stderr

    def longtake(self, *arguments, **env):
        command = [BIN / "longtake", "submit", *arguments]
        job = subprocess.run(
            command, env={**self.env, **env}, capture_output=True, text=True, timeout=JOB_S, check=False
        )
        return job.returncode, job.stdout + job.stderr

    def jobs(self):
        """What the jobs server tells of every job, by its id."""
        token = (self.folder / "token").read_text()
        call = urllib.request.Request(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(call, timeout=30) as answer:
            return {job["submission_id"]: job for job in json.load(answer)}


def free_ports(*names):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}


@pytest.fixture(scope="module")
def cluster():
    with (
        tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        LocalCluster(folder, env={"RAY_metrics_report_interval_ms": "1000"}) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def rendered_on_ray(cluster, tmp_path_factory):
    """The film of the storyboard from a job of `ray job submit`, rendered by actors."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "film.yaml").write_text(STORYBOARD)
    command = ["python", "-m", "longtake.jobs.render", str(folder / "film.yaml"), "-o", str(folder / "ray")]
    code, said = cluster.submit(*command)
    assert code == 0, said
    assert "succeeded" in said
    return (folder / "ray" / "film.mp4").read_bytes()


def test_a_job_that_fails_is_a_failed_submission_with_our_message(cluster, tmp_path):
    (tmp_path / "film.yaml").write_text(STORYBOARD)
    code, said = cluster.submit(
        "python",
        "-m",
        "longtake.jobs.render",
        str(tmp_path / "film.yaml"),
        "-o",
        str(tmp_path / "out"),
        "--set",
        "seed=-1",
    )
    assert code != 0
    assert "seed is -1" in said


@pytest.mark.usefixtures("rendered_on_ray")
def test_a_package_holds_what_jobs_need_and_no_more(cluster):
    packages = list(cluster.folder.glob("ray/session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    assert packages
    for package in packages:
        names = {path.name for path in package.iterdir()}
        assert names >= {"longtake", "jobs", "actors", "pipeline", "examples"}
        assert not names & {".git", ".venv", "docs", "out", "tests"}
        files = [path for path in package.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files if path.suffix != ".safetensors") < 8 * 2**20
        assert {path.parent.name for path in files if path.suffix == ".safetensors"} <= {"weights"}


def test_a_call_without_the_token_is_refused(cluster):
    assert cluster.answer("/api/jobs/") == 401


@pytest.fixture(scope="module")
def submitted(cluster, tmp_path_factory):
    """The call and the output of `longtake submit` for the same storyboard, and the folder of its film."""
    folder = tmp_path_factory.mktemp("submitted")
    (folder / "film.yaml").write_text(STORYBOARD)
    call = (str(folder / "film.yaml"), "-o", str(folder / "film"), "--address", cluster.address)
    # Without RAY_AUTH_MODE, which is for us to set; and RAY_ADDRESS must not win over --address.
    env = {key: value for key, value in cluster.env.items() if key != "RAY_AUTH_MODE"}
    cluster_env, cluster.env = cluster.env, env
    try:
        code, said = cluster.longtake(*call, "--", "--in-process", RAY_ADDRESS="http://127.0.0.1:1")
    finally:
        cluster.env = cluster_env
    assert code == 0, said
    return call, said, folder / "film"


def test_a_job_in_one_process_and_a_job_on_actors_make_the_film_of_a_local_render(submitted, rendered_on_ray, tmp_path):
    _, said, film = submitted
    render = ["render", film.parent / "film.yaml", "-o", tmp_path, "--in-process"]
    subprocess.run([sys.executable, "-m", "longtake.jobs", *render], capture_output=True, check=True)
    assert (film / "film.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes() == rendered_on_ray
    assert "film.mp4: 2 s" in said  # the job's own words, followed


def test_a_submission_prints_how_to_follow_it_and_records_its_title_output_and_version(cluster, submitted):
    _, said, film = submitted
    [job] = re.findall(r"submitted (longtake-[0-9a-f]{12}-a1)\n", said)
    assert f"ray job logs --follow --address {cluster.address} {job}" in said
    assert f"ray job stop --address {cluster.address} {job}" in said
    told = cluster.jobs()[job]
    assert told["metadata"]["title"] == "Untitled"
    assert told["metadata"]["output"] == str(film)
    assert told["metadata"]["longtake"]
    assert told["entrypoint"] == f"python -m longtake.jobs.render storyboard.yaml -o {film} --in-process"


def test_the_next_attempt_is_counted_and_a_second_at_once_is_refused(cluster, submitted):
    call, said, _ = submitted
    name = re.search(r"longtake-[0-9a-f]{12}", said)[0]
    code, said = cluster.longtake(*call, "--no-wait")
    assert (code, f"submitted {name}-a2" in said) == (0, True), said
    code, said = cluster.longtake(*call, "--no-wait")
    assert code == 2
    assert f"{name}-a2 already renders the same into the same place" in said
    stop = [BIN / "ray", "job", "stop", "--address", cluster.address, f"{name}-a2"]
    subprocess.run(stop, env=cluster.env, capture_output=True, timeout=JOB_S, check=False)
    assert cluster.jobs()[f"{name}-a2"]["status"] in {"STOPPED", "SUCCEEDED"}


def test_a_followed_job_gives_its_exit_code(cluster, tmp_path):
    (tmp_path / "film.yaml").write_text(STORYBOARD)
    call = (str(tmp_path / "film.yaml"), "-o", str(tmp_path / "out"), "--address", cluster.address)
    code, said = cluster.longtake(*call, "--", "--ranks", "4", "--ulysses", "3")
    assert code == 2, said
    assert "--ranks is 4; ulysses 3" in said
    assert re.search(r"longtake: longtake-\w+-a1 failed: .*exit code 2", said)


def test_a_token_that_is_wrong_or_missing_is_reported_with_the_fix(cluster, tmp_path):
    (tmp_path / "film.yaml").write_text(STORYBOARD)
    (tmp_path / "token").write_text(secrets.token_hex(32))
    call = (str(tmp_path / "film.yaml"), "-o", str(tmp_path / "out"), "--address", cluster.address)
    code, said = cluster.longtake(*call, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert code == 1
    assert "refuses the token; put the cluster's token into RAY_AUTH_TOKEN" in said
    code, said = cluster.longtake(*call, RAY_AUTH_MODE="disabled")
    assert code == 1
    assert "asks for a token; put the cluster's token into RAY_AUTH_TOKEN" in said


METERED = """
import sys, time
from pathlib import Path

import ray
from longtake.actors.metrics import Meters

@ray.remote(num_cpus=0)
class Metered:
    def __init__(self):
        self.meters = Meters()
        self.meters.event("film.start", {"chunks": 4, "film_s": 4.0})
        self.meters.event("denoise.chunk", {"chunk": 0, "seconds": 0.2})
        self.meters.event("publish.chunk", {"chunk": 0, "seconds": 0.01})
        time.sleep(0.1)
        self.meters.event("publish.chunk", {"chunk": 1, "seconds": 0.01})
        self.meters.event("actor.replaced", {"act": "denoise", "epoch": 1, "reason": "died"})
        self.meters.in_flight(1024)

    def wait(self, seen):
        until = time.monotonic() + 40
        while time.monotonic() < until and not Path(seen).exists():
            time.sleep(0.1)

ray.init("auto", log_to_driver=False)
node = ray.nodes()[0]
metered = Metered.remote()
done = metered.wait.remote(sys.argv[1])
print("metrics at", node["NodeManagerAddress"], node["MetricsExportPort"], flush=True)
ray.get(done)
"""


def test_prometheus_receives_the_metrics_of_an_actor(cluster, tmp_path):
    (tmp_path / "metered.py").write_text(METERED)
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "metered.py"), str(tmp_path / "seen")],
        cwd=ROOT,
        env={**cluster.env, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster.gcs_address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with driver:
        said = ""
        for line in driver.stdout:
            said += line
            if line.startswith("metrics at"):
                break
        else:
            pytest.fail(said)
        host, port = line.split()[2:]
        seen, until = set(), time.monotonic() + 40
        while time.monotonic() < until and not seen >= EXPORTED:
            with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            seen = set(re.findall(r"^(ray_longtake_\w+)\{", text, re.MULTILINE))
            time.sleep(0.5)
        (tmp_path / "seen").touch()
        driver.stdout.read()
    assert seen == EXPORTED, text
    samples = [line for line in text.splitlines() if line.startswith("ray_longtake_")]
    assert any(line.startswith("ray_longtake_bytes_in_flight") and line.endswith(" 1024.0") for line in samples)
    assert all(' gang="0"' in line.replace("{", " ").replace(",", " ") for line in samples)
