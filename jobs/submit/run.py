"""`longtake submit`: render on a Ray cluster, as a job that runs the command of a local render there."""

from urllib.parse import urlsplit

from rich.console import Console

from longtake.jobs.submit.cluster import connect, send
from longtake.jobs.submit.follow import follow
from longtake.jobs.submit.parcel import SubmitOptions, is_path, pack, place_of, read_source

LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def submit_command(source: str, options: SubmitOptions) -> int:
    """Submit `source`: the job's exit code if it is followed, else 0 once the cluster has accepted the job."""
    console = Console(soft_wrap=True, highlight=False)
    output = place_of(options.output)
    parcel = pack(source, read_source(source), output, options)
    if is_path(output) and urlsplit(options.address).hostname not in LOOPBACK:
        console.print(
            f"[yellow]-o is {output}, a path of this machine: all nodes of {options.address} must see it there, as a"
            " shared folder; otherwise use a URL, such as s3://BUCKET/film[/]"
        )
    client = connect(options.address)
    job = send(client, parcel, options.address, output)
    console.print(how_to(job, options.address, output), markup=False)
    return follow(client, job, options.address) if options.follow else 0


def how_to(job: str, address: str, output: str) -> str:
    """The commands that follow, query and stop a job."""
    calls = {
        "follow": f"ray job logs --follow --address {address} {job}",
        "status": f"longtake status {output}",
        "stop": f"ray job stop --address {address} {job}",
    }
    return "\n".join([f"submitted {job}", *(f"  {what:7}{call}" for what, call in calls.items())])
