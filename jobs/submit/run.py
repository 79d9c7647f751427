"""`longtake submit`: render on a Ray cluster, as a job that runs the command of a local render there."""

import sys
from urllib.parse import urlsplit

from longtake.jobs.feedback import print_json
from longtake.jobs.progress import Progress
from longtake.jobs.submit.cluster import connect, send
from longtake.jobs.submit.follow import follow
from longtake.jobs.submit.parcel import SubmitOptions, is_path, pack, place_of, read_source

LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def submit_command(source: str, options: SubmitOptions, progress: Progress) -> int:
    """Submit `source`: the job's exit code if it is followed, else 0 once the cluster has accepted the job."""
    feedback = progress.feedback
    output = place_of(options.output)
    parcel = pack(source, read_source(source), output, options)
    if is_path(output) and urlsplit(options.address).hostname not in LOOPBACK:
        progress.say(
            f"-o is {output}, a path of this machine: all nodes of {options.address} must see it there, as a shared"
            " folder; otherwise use a URL, such as s3://BUCKET/film"
        )
    progress.phase(f"connecting to {options.address}")
    client = connect(options.address)
    progress.phase("uploading")
    job = send(client, parcel, options.address, output, progress.phase)
    progress.stop()
    fields = {"job": job, "address": options.address, "output": output}
    if not options.follow:
        feedback.result(how_to(job, options.address, output), **fields)
        return 0
    feedback.console.print(how_to(job, options.address, output))
    code = follow(client, job, options.address, sys.stderr if feedback.as_json else sys.stdout)
    if feedback.as_json:
        print_json({**fields, "exit_code": code})
    return code


def how_to(job: str, address: str, output: str) -> str:
    """The commands that follow, query and stop a job."""
    calls = {
        "follow": f"ray job logs --follow --address {address} {job}",
        "status": f"longtake status {output}",
        "stop": f"ray job stop --address {address} {job}",
    }
    return "\n".join([f"submitted {job}", *(f"  {what:7}{call}" for what, call in calls.items())])
