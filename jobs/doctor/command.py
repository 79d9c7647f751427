"""Flags of `longtake doctor`."""

from typing import Annotated

import typer

from longtake.jobs.options import Json


def command(
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT", help="The output folder to test; nothing is left in it.")
    ] = "out",
    json: Json = False,
    ray: Annotated[
        bool, typer.Option("--ray/--no-ray", help="Also start a Ray cluster here, which takes up to 10 s.")
    ] = True,
) -> None:
    """Check what a render needs here: versions, GPUs, Ray, codecs, the output. Each problem comes with a fix."""
    from longtake.jobs.doctor.examine import run_doctor

    if not run_doctor(output, ray=ray, as_json=json):
        raise typer.Exit(1)
