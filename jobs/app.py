"""The commands of `longtake`. A command imports what it needs when it runs, so that help answers at once."""

from collections.abc import Callable
from typing import Annotated

import typer

from longtake.jobs import calibrate, cancel, clean, convert, demo, init
from longtake.jobs.batch import command as batch
from longtake.jobs.bench import command as bench
from longtake.jobs.choose import command as choose
from longtake.jobs.doctor import command as doctor
from longtake.jobs.entry import Command, new_app
from longtake.jobs.inspect import command as inspect
from longtake.jobs.models import command as models
from longtake.jobs.render import command as render
from longtake.jobs.retake import command as retake
from longtake.jobs.score import command as score
from longtake.jobs.status import command as status
from longtake.jobs.submit import command as submit
from longtake.jobs.train import command as train
from longtake.jobs.upscale import command as upscale
from longtake.jobs.watch import command as watch

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.command,
    "init": init.command,
    "render": render.command,
    "retake": retake.command,
    "choose": choose.command,
    "score": score.command,
    "upscale": upscale.command,
    "submit": submit.command,
    "batch": batch.command,
    "train": train.command,
    "models": models.command,
    "calibrate": calibrate.command,
    "convert": convert.command,
    "doctor": doctor.command,
    "status": status.command,
    "cancel": cancel.command,
    "clean": clean.command,
    "watch": watch.command,
    "inspect": inspect.command,
    "bench": bench.command,
}

app = new_app(no_args_is_help=True, add_completion=True)


def print_version(*, asked: bool) -> None:
    """Print the version and exit, if asked to."""
    if asked:
        from importlib.metadata import version

        print(f"longtake {version('longtake')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Render films of any length, picture and sound together, with diffusion transformers."""


for name, command in COMMANDS.items():
    app.command(name, cls=Command)(command)
