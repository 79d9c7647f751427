"""Follows a job on a cluster: prints its log until it has ended."""

import asyncio
import sys
from typing import TYPE_CHECKING, TextIO

from longtake.jobs.interrupt import Interrupted
from longtake.jobs.submit.cluster import RETRIES, RETRY_S
from longtake.pipeline.errors import LongtakeError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient


def follow(client: "JobSubmissionClient", job: str, address: str, log: TextIO) -> int:
    """Write the log of a job to `log` until it has ended, and return its exit code. A signal does not stop the job."""
    try:
        has_output, end = asyncio.run(_tail(client, job, log))
    except Interrupted as error:
        error.add_note(f"{job} keeps running; to stop it: ray job stop --address {address} {job}")
        raise
    except OSError as error:
        raise LongtakeError(
            f"{address} no longer answers ({error}); {job} keeps running if the head node does: ray job logs --follow"
            f" --address {address} {job}; otherwise submit again, finished chunks are kept"
        ) from error
    if end.status == "SUCCEEDED":
        return 0
    if end.status == "STOPPED":
        raise LongtakeError(f"{job} was stopped; finished chunks are kept, submit again to resume")
    # Ray's message ends with the last lines of the log, which were printed.
    lines = str(end.message or "it gives no reason").splitlines()
    print(f"longtake: {job} failed: {lines[0] if has_output else end.message}", file=sys.stderr)
    code = end.driver_exit_code or 1
    return 128 - code if code < 0 else code


async def _tail(client: "JobSubmissionClient", job: str, log: TextIO) -> tuple[bool, "JobDetails"]:
    """Whether the job printed anything, and how it ended. Raises `OSError` when its server stays unreachable."""
    from aiohttp import ClientError

    printed = failures = 0
    while True:
        position = 0  # each new connection sends the log from its beginning
        try:
            async for text in client.tail_job_logs(job):
                print(text[max(0, printed - position) :], end="", flush=True, file=log)
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
