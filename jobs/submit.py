"""Submit a storyboard or a manifest to a Ray cluster as a job, which runs the command of a local render there.

py_modules    the package longtake as it is installed here; Ray names it by its content and sends each version once
working_dir   storyboard.yaml, or manifest.* with the storyboards that it names
id            longtake-<hash of text, overrides and output>-a<attempt>
"""

import asyncio
import hashlib
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from time import sleep
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import fsspec
import yaml
from packaging.version import Version
from rich.console import Console

import longtake.actors
import longtake.jobs
import longtake.pipeline
from longtake.pipeline.errors import LongtakeError, SpecError
from longtake.pipeline.spec import Storyboard, parse_storyboard

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
RETRY_S = 3.0
RETRIES = 20

Kind = Literal["storyboard", "manifest"]


@dataclass(frozen=True)
class SubmitOptions:
    """Flags of `longtake submit`; see its help. `flags` are handed on to the render or the batch as they are."""

    address: str
    output: str
    overrides: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    follow: bool = True


@dataclass(frozen=True)
class Parcel:
    """What a job runs, and the files that travel with it into its working folder."""

    name: str
    title: str
    command: tuple[str, ...]
    files: Mapping[str, bytes]


def submit_command(source: str, options: SubmitOptions) -> int:
    """`longtake submit`: the exit code of the job where it is followed, else 0 once the cluster has taken it."""
    console = Console(soft_wrap=True, highlight=False)
    output = place_of(options.output)
    parcel = pack(source, read_text(source), output, options)
    if is_path(output) and urlsplit(options.address).hostname not in LOOPBACK:
        console.print(
            f"[yellow]-o is {output}, a path of this machine: every node of {options.address} must see it there, as a"
            " shared folder; else use a URL, such as s3://BUCKET/film[/]"
        )
    client = connect(options.address)
    job = send(client, parcel, options.address, output)
    console.print(how_to(job, options.address, output), markup=False)
    return follow(client, job, options.address) if options.follow else 0


# ------------------------------------------------------------------ what travels


def kind_of(name: str, text: str) -> Kind:
    """Whether a file is a storyboard, or a manifest: a table or JSON lines, a list, or a mapping with `takes`."""
    if PurePosixPath(name).suffix in (".jsonl", ".csv"):
        return "manifest"
    try:
        holds = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return "storyboard"  # whose parser says what is wrong
    return "manifest" if isinstance(holds, list) or (isinstance(holds, dict) and "takes" in holds) else "storyboard"


def pack(source: str, text: str, output: str, options: SubmitOptions) -> Parcel:
    """The parcel of a storyboard or manifest. Raises `SpecError` with all mistakes of a storyboard."""
    sets = [part for override in options.overrides for part in ("--set", override)]
    identity = json.dumps([text, options.overrides, output])
    name = f"longtake-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if kind_of(source, text) == "storyboard":
        storyboard = parse_storyboard(text, options.overrides, source=source)
        check_seen(storyboard)
        title = storyboard.title
        file, module, files = "storyboard.yaml", "longtake.jobs.render", {}
    else:
        file, module = f"manifest{PurePosixPath(source).suffix or '.yaml'}", "longtake.jobs.batch"
        title, files = PurePosixPath(source).name, dict(named_files(source))
    command = ("python", "-m", module, file, "-o", output, *sets, *options.flags)
    return Parcel(name, title, command, {**files, file: text.encode()})


def check_seen(storyboard: Storyboard) -> None:
    """Raise `SpecError` where a storyboard is given files that only this machine has."""
    mistakes = [
        f"{file.key} is {file.url!r}, beside the storyboard; the cluster does not see it: use a URL, or an absolute"
        " path that all its nodes have"
        for file in storyboard.conditioning_files()
        if "://" not in file.url and not PurePosixPath(file.url).is_absolute()
    ]
    if mistakes:
        raise SpecError("\n".join(mistakes))


def named_files(manifest: str) -> Iterator[tuple[str, bytes]]:
    """Storyboards that a manifest names relative to its own folder; others must be where the cluster sees them."""
    from longtake.jobs.batch.rows import read_rows

    rows = [row.values for row in read_rows(manifest) if isinstance(row.values, dict)]
    names = {str(values["storyboard"]) for values in rows if isinstance(values.get("storyboard"), str)}
    folder = manifest[: manifest.rfind("/") + 1]
    for name in sorted(name for name in names if not name.startswith("/") and "://" not in name):
        if ".." in PurePosixPath(name).parts:
            raise SpecError(f"{manifest} names {name}, which is not below it and cannot travel; move it, or use a URL")
        yield name, read_text(folder + name).encode()


def read_text(url: str) -> str:
    """The text at any path or fsspec URL. Raises `SpecError` where there is none."""
    try:
        with fsspec.open(url, "r", encoding="utf-8-sig") as file:
            text: str = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise SpecError(f"{url} cannot be read: {error}") from error
    return text


def place_of(output: str) -> str:
    """The output root as a job names it. Raises `SpecError` for one that ends with its process."""
    if output.startswith("memory:"):
        raise SpecError(f"-o is {output}; memory belongs to one process: use a URL or a folder that all nodes share")
    return str(Path(output).absolute()) if is_path(output) else output


def is_path(output: str) -> bool:
    """Whether an output root is a path rather than a URL."""
    return "://" not in output or output.startswith("file:")


# ------------------------------------------------------------------ the cluster


def connect(address: str) -> "JobSubmissionClient":
    """A client of the jobs server at `address`. Raises `LongtakeError` where there is none that would do."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise SpecError(
            f"--address is {address}; jobs are taken by the dashboard's port, such as http://127.0.0.1:8265"
        )
    _use_token()
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)  # Ray would prefer them to the address that it is given

    import ray
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray._private.runtime_env.packaging", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # each package, each ignored file, and that weights are large
    try:
        client = JobSubmissionClient(address)
    except AuthenticationError as error:
        seen = "asks for a token" if "required" in str(error) else "refuses the token"
        raise LongtakeError(
            f"{address} {seen}; put the cluster's into RAY_AUTH_TOKEN, or its file's name into RAY_AUTH_TOKEN_PATH"
            " (~/.ray/auth_token is read by itself)"
        ) from error
    except ConnectionError as error:
        raise LongtakeError(
            f"nobody answers at {address}; start the cluster, or lead its port here: ray dashboard cluster.yaml, or"
            " kubectl port-forward service/HEAD 8265"
        ) from error
    except (RuntimeError, OSError, KeyError) as error:
        raise LongtakeError(f"{address} is no jobs server of Ray ({error}); name the dashboard's port") from error
    theirs, ours = str(client._server_ray_version), ray.__version__
    if Version(theirs).release[:2] != Version(ours).release[:2]:
        raise LongtakeError(
            f"{address} runs Ray {theirs}, this is Ray {ours}; start the cluster from an image with {ours}"
            " (deploy/Dockerfile), or submit from an environment like the cluster's"
        )
    return client


def _use_token() -> None:
    """Have Ray send a token where there is one, which before 2.61 it does only if told to; before Ray is imported."""
    token, path = os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path and not token and not Path(path).is_file():
        raise SpecError(f"RAY_AUTH_TOKEN_PATH is {path}, where no file is; `ray get-auth-token` prints a token")
    if token or path or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def send(client: "JobSubmissionClient", parcel: Parcel, address: str, output: str) -> str:
    """Submit a parcel as the next attempt of its name: the job's id."""
    job = next_attempt(
        parcel.name, {one.submission_id: one.status.is_terminal() for one in client.list_jobs()}, address
    )
    with TemporaryDirectory(prefix="longtake-") as scratch:
        folder = Path(scratch, "files")
        folder.mkdir()
        for name, content in parcel.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        # No entrypoint resources: the driver only waits, and belongs on the head, which offers no CPUs.
        call = {
            "submission_id": job,
            "entrypoint": shlex.join(parcel.command),
            "runtime_env": {
                "working_dir": str(folder),
                "py_modules": [str(gather_code(Path(scratch)))],
                "excludes": ["__pycache__"],
                "env_vars": {"PYTHONUNBUFFERED": "1"},
            },
            "metadata": {"title": parcel.title, "output": output, "longtake": version("longtake")},
        }
        for retry in range(RETRIES):
            try:
                client.submit_job(**call)
                break
            except (RuntimeError, OSError) as error:
                if "No available agent" not in str(error) or retry == RETRIES - 1:
                    raise LongtakeError(f"{address} does not take {job}: {error}; `ray status` says more") from error
                sleep(RETRY_S)  # its head has only just started
    return job


def next_attempt(name: str, ended: Mapping[str | None, bool], address: str) -> str:
    """The id of the next attempt, from the ids that there are and whether each has ended. Refuses a second at once."""
    attempts = [0]
    for job, has_ended in ended.items():
        base, _, number = (job or "").rpartition("-a")
        if base != name or not number.isdecimal():
            continue
        if not has_ended:
            raise SpecError(
                f"{job} renders the same into the same place already; follow it: ray job logs --follow --address"
                f" {address} {job}"
            )
        attempts.append(int(number))
    return f"{name}-a{max(attempts) + 1}"


def gather_code(folder: Path) -> Path:
    """A package `longtake` in `folder`, complete, whose parts link to where this process imports them from."""
    code = folder / "longtake"
    code.mkdir()
    for file in Path(longtake.__path__[0]).iterdir():
        if file.name != "__pycache__":
            (code / file.name).symlink_to(file)
    for package in (longtake.actors, longtake.jobs, longtake.pipeline):
        target = code / package.__name__.rpartition(".")[2]
        if not target.exists():
            target.symlink_to(package.__path__[0])
    return code


def how_to(job: str, address: str, output: str) -> str:
    """What can be done with a job."""
    calls = {
        "follow": f"ray job logs --follow --address {address} {job}",
        "status": f"longtake status {output}",
        "stop": f"ray job stop --address {address} {job}",
    }
    return "\n".join([f"submitted {job}", *(f"  {what:7}{call}" for what, call in calls.items())])


# ------------------------------------------------------------------ following


def follow(client: "JobSubmissionClient", job: str, address: str) -> int:
    """Print what a job says until it has ended: its exit code. Ctrl-C ends this, not the job."""
    try:
        said_anything, end = asyncio.run(_tail(client, job))
    except KeyboardInterrupt:
        print(f"\n{job} goes on; ray job stop --address {address} {job} ends it", file=sys.stderr)
        return 130
    except OSError as error:
        raise LongtakeError(
            f"{address} answers no more ({error}); {job} goes on if the head does: ray job logs --follow"
            f" --address {address} {job}; otherwise submit again, finished chunks are kept"
        ) from error
    if end.status == "SUCCEEDED":
        return 0
    if end.status == "STOPPED":
        raise LongtakeError(f"{job} was stopped; finished chunks are kept, the same command goes on there")
    # Ray's message ends with the last lines of the log, which were printed.
    lines = str(end.message or "it does not say why").splitlines()
    print(f"longtake: {job} failed: {lines[0] if said_anything else end.message}", file=sys.stderr)
    code = end.driver_exit_code or 1
    return 128 - code if code < 0 else code


async def _tail(client: "JobSubmissionClient", job: str) -> tuple[bool, "JobDetails"]:
    """Whether the job said anything, and how it ended. Raises `OSError` when its server is gone for long."""
    from aiohttp import ClientError

    printed = failures = 0
    while True:
        position = 0  # every new connection tells the log from its beginning
        try:
            async for text in client.tail_job_logs(job):
                print(text[max(0, printed - position) :], end="", flush=True)
                position += len(text)
                printed, failures = max(printed, position), 0
            end = await asyncio.to_thread(client.get_job_info, job)
            if end.status.is_terminal():
                return printed > 0, end
        except (RuntimeError, ClientError, OSError) as error:
            failures += 1
            if failures > RETRIES:
                raise ConnectionError(str(error)) from error
        await asyncio.sleep(RETRY_S)
