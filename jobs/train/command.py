"""Flags of `longtake train`."""

from typing import Annotated

import typer

from longtake.jobs.options import Address, Overrides


def command(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="What to train: codec, denoiser, rollout or upscaler.")],
    config: Annotated[
        str, typer.Option("--config", metavar="FILE", help="The training configuration in YAML; see configs/.")
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="RUN_DIR", help="The run's folder, which every worker can reach.")
    ],
    overrides: Overrides = None,
    data: Annotated[
        str | None, typer.Option(help="Training clips: a folder or fsspec URL (default: synthetic shapes).")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="If RUN_DIR already holds a run, start a new one next to it.")
    ] = False,
    address: Address = None,
) -> None:
    """Train a model; run the same command again to resume from the last checkpoint."""
    from longtake.jobs.train.loop import TrainOptions, train_command

    options = TrainOptions(overrides=tuple(overrides or ()), data=data, fresh=fresh, address=address)
    train_command(stage, config, output, options)
