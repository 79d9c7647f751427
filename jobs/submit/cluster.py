"""The jobs server of a Ray cluster: connecting to it, and submitting a parcel.

py_modules    the package longtake as it is installed here; Ray names it by its content and uploads each version once
working_dir   the parcel's files
id            the parcel's name with a counter: longtake-<hash>-a<attempt>
"""

import logging
import os
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from packaging.version import Version

from longtake.jobs.submit.code import EXCLUDES, gather_code
from longtake.jobs.submit.parcel import Parcel
from longtake.pipeline.errors import LongtakeError, SpecError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

RETRY_S = 3.0
RETRIES = 20


def connect(address: str) -> "JobSubmissionClient":
    """A client of the jobs server at `address`. Raises `LongtakeError` if there is none that can be used."""
    if urlsplit(address).scheme not in ("http", "https"):
        host = urlsplit(address if "://" in address else f"//{address}").hostname
        likely = host if host not in (None, "auto", "local") else "127.0.0.1"
        raise SpecError(f"--address is {address}; use the URL of the dashboard, such as http://{likely}:8265")
    _use_token()
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)  # Ray would prefer them to the address that it receives

    import ray

    # Ray would log each package, each ignored file, and that weights are large.
    for name in ("ray._private.runtime_env.packaging", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    client = _client(address)
    theirs, ours = str(client._server_ray_version), ray.__version__
    if Version(theirs).release[:2] != Version(ours).release[:2]:
        raise LongtakeError(
            f"{address} runs Ray {theirs}, this is Ray {ours}; start the cluster from an image with {ours}"
            " (deploy/Dockerfile), or submit from an environment like the cluster's"
        )
    return client


def _client(address: str) -> "JobSubmissionClient":
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        seen = "asks for a token" if "required" in str(error) else "refuses the token"
        raise LongtakeError(
            f"{address} {seen}; put the cluster's token into RAY_AUTH_TOKEN, or the name of its file into"
            " RAY_AUTH_TOKEN_PATH (~/.ray/auth_token is read by default)"
        ) from error
    except ConnectionError as error:
        raise LongtakeError(
            f"no answer from {address}; start the cluster, or forward its port to this machine: ray dashboard"
            " cluster.yaml, or kubectl port-forward service/HEAD 8265"
        ) from error
    except (RuntimeError, OSError, KeyError) as error:
        raise LongtakeError(f"{address} is not a jobs server of Ray ({error}); use the dashboard's port") from error


def _use_token() -> None:
    """Make Ray send a token if there is one; before 2.61 it does so only on request. Call this before importing Ray."""
    token, path = os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path and not token and not Path(path).is_file():
        raise SpecError(f"RAY_AUTH_TOKEN_PATH is {path}, which is not a file; `ray get-auth-token` prints a token")
    if token or path or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def send(client: "JobSubmissionClient", parcel: Parcel, address: str, output: str, tell: Callable[[str], None]) -> str:
    """Submit a parcel as the next attempt of its name, and return the id of the job.

    Args:
        tell: is called with what the command waits for.
    """
    ended = {job.submission_id: job.status.is_terminal() for job in client.list_jobs()}
    job = next_attempt(parcel.name, ended, address)
    with TemporaryDirectory(prefix="longtake-") as scratch:
        folder = Path(scratch, "files")
        folder.mkdir()
        for name, content in parcel.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        runtime_env = {
            "working_dir": str(folder),
            "py_modules": [str(gather_code(Path(scratch)))],
            "excludes": list(EXCLUDES),
            "env_vars": {"PYTHONUNBUFFERED": "1"},
        }
        metadata = {"title": parcel.title, "output": output, "longtake": version("longtake")}
        call = partial(
            client.submit_job,
            entrypoint=shlex.join(parcel.command),
            submission_id=job,
            runtime_env=runtime_env,
            metadata=metadata,
        )
        _submit(call, job, address, tell)
    return job


def _submit(submit: Callable[[], object], job: str, address: str, tell: Callable[[str], None]) -> None:
    # No entrypoint resources: the driver only waits, and belongs on the head node, which offers no CPUs.
    for retry in range(RETRIES):
        try:
            submit()
            return
        except (RuntimeError, OSError) as error:
            if "No available agent" not in str(error) or retry == RETRIES - 1:
                raise LongtakeError(f"{address} does not accept {job}: {error}; see `ray status`") from error
            tell(f"waiting for a job agent on the head node of {address}")  # it has only just started
            sleep(RETRY_S)


def next_attempt(name: str, ended: Mapping[str | None, bool], address: str) -> str:
    """The id of the next attempt, given all job ids and whether each has ended. Refuses two attempts at once."""
    attempts = [0]
    for job, has_ended in ended.items():
        base, _, number = (job or "").rpartition("-a")
        if base != name or not number.isdecimal():
            continue
        if not has_ended:
            raise SpecError(
                f"{job} already renders the same into the same place; follow it: ray job logs --follow --address"
                f" {address} {job}"
            )
        attempts.append(int(number))
    return f"{name}-a{max(attempts) + 1}"
