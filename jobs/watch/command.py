"""Flags of `longtake watch`."""

from typing import Annotated

import typer

from longtake.jobs.options import Take


def command(
    output: Take,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on this machine; 0 = any free port.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Show a render in the browser while it runs; only this machine can reach the page."""
    from longtake.jobs.watch.serve import serve

    serve(output, port, open_browser=not no_open)
