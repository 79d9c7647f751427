"""`ray job submit --working-dir . -- python -m jobs.render ...` on a cluster of this machine, token and all."""

import os
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

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WISH = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 2s}]}"
START_S, JOB_S = 120, 240

pytestmark = pytest.mark.slow


class LocalCluster:
    """`ray start --head --block` in a process group of its own: own ports, own folder, own token."""

    def __init__(self, folder):
        self.folder = Path(folder)
        (self.folder / "token").write_text(secrets.token_hex(32))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.env = {
            **inherited,
            "PATH": f"{BIN}:{os.environ['PATH']}",  # `python` is the one that has the dependencies, as in an image
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
        }
        ports = free_ports("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
        self.address = f"http://127.0.0.1:{ports['dashboard-port']}"
        options = {
            "node-ip-address": "127.0.0.1",
            "dashboard-host": "127.0.0.1",
            "num-cpus": 4,
            "object-store-memory": 256 * 2**20,
            "temp-dir": self.folder / "ray",
            **ports,
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
            if self.answer("/api/version") in (200, 401):
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
        """The status of a call without a token, or None as long as nobody answers."""
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
        LocalCluster(folder) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def films(cluster, tmp_path_factory):
    """The film of one wish from two jobs: rendered in the job's own process, and by actors."""
    folder, films = tmp_path_factory.mktemp("films"), {}
    (folder / "wish.yaml").write_text(WISH)
    for road, options in {"in-process": ["--in-process"], "ray": []}.items():
        command = ["python", "-m", "jobs.render", str(folder / "wish.yaml"), "-o", str(folder / road), *options]
        code, said = cluster.submit(*command)
        assert code == 0, said
        assert "succeeded" in said
        films[road] = (folder / road / "film.mp4").read_bytes()
    return films


def test_a_job_renders_the_same_film_in_one_process_and_on_the_cluster(films):
    assert films["in-process"] == films["ray"]


def test_a_job_that_fails_is_a_failed_submission_with_our_message(cluster, tmp_path):
    (tmp_path / "wish.yaml").write_text(WISH)
    code, said = cluster.submit(
        "python", "-m", "jobs.render", str(tmp_path / "wish.yaml"), "-o", str(tmp_path / "out"), "--set", "seed=-1"
    )
    assert code != 0
    assert "seed is -1" in said


@pytest.mark.usefixtures("films")
def test_a_package_holds_what_jobs_need_and_no_more(cluster):
    packages = list(cluster.folder.glob("ray/session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    assert packages
    for package in packages:
        names = {path.name for path in package.iterdir()}
        assert names >= {"jobs", "actors", "pipeline", "examples"}
        assert not names & {".git", ".venv", "docs", "out", "tests"}
        files = [path for path in package.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files if path.suffix != ".safetensors") < 8 * 2**20
        assert {path.parent.name for path in files if path.suffix == ".safetensors"} <= {"weights"}


def test_nobody_submits_without_the_token(cluster):
    assert cluster.answer("/api/jobs/") == 401
