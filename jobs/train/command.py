"""Flags of `longtake train`."""

from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.interrupt import resumable
from longtake.jobs.options import (
    COMPUTE,
    Address,
    DeviceName,
    Json,
    LogLevel,
    ProgressMode,
    Quiet,
    Verbose,
)


def command(
    stage: Annotated[
        str, typer.Argument(metavar="STAGE", help="What to train: codec, denoiser, rollout, lora or upscaler.")
    ],
    config: Annotated[
        str, typer.Option("--config", metavar="FILE", help="The training configuration in YAML; see configs/.")
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="RUN_DIR", help="The run's folder, which every worker can reach.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a value of the configuration, such as steps=500. Repeatable."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Training clips: a folder or fsspec URL (default: synthetic shapes).")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="If RUN_DIR already holds a run, start a new one next to it.")
    ] = False,
    address: Address = None,
    device: Annotated[
        DeviceName | None,
        typer.Option(
            help="Where models run: cpu, cuda (one GPU for each worker), or auto: cuda if there is a GPU (default: the"
            " configuration's device).",
            rich_help_panel=COMPUTE,
        ),
    ] = None,
    progress: ProgressMode = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_level: LogLevel = None,
) -> None:
    """Train a model; run the same command again to resume from the last checkpoint."""
    from longtake.jobs.progress import Progress

    feedback = Feedback(progress, json, verbose, quiet, log_level)
    with resumable("checkpoints"), Progress(feedback, "loading PyTorch and Ray") as shown:
        from longtake.jobs.train.loop import TrainOptions, train_command

        options = TrainOptions(tuple(overrides or ()), data, fresh, address, device)
        train_command(stage, config, output, options, shown)
