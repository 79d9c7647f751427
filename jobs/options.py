"""Flags and arguments that several commands share, so that each has one name and one help text."""

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value for one run, such as sampling.steps=4. Repeatable."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan and exit.")]
InProcess = Annotated[bool, typer.Option("--in-process", help="Run in this process, without Ray.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on one line.")]
Take = Annotated[str, typer.Argument(metavar="OUT", help="The output folder of a render: a path or fsspec URL.")]

# ------------------------------------------------------------------ where and how a model runs

Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to join (default: $RAY_ADDRESS, or a new cluster here; local: a new one)."),
]
Device = Annotated[
    str, typer.Option(help="Where to denoise, decode and upscale: cpu, or cuda with one GPU for each rank.")
]
Dtype = Annotated[
    str | None,
    typer.Option(help="Weight precision: float32, bfloat16 or float16 (default: as stored). Changes the output bits."),
]
Quantize = Annotated[
    str | None, typer.Option(help="Quantize the denoiser to int8 or float8 (default: no). Changes the output.")
]
Offload = Annotated[
    str,
    typer.Option(
        help="Do not keep in memory: layers (of the denoiser), encoder (of prompts), none, or auto: if needed."
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of each process. Changes the output bits.")]
AnySize = Annotated[
    bool, typer.Option("--any-size", help="Also render sizes that the model was not trained on; expect noise.")
]

# ------------------------------------------------------------------ what is there

Replace = Annotated[
    bool, typer.Option("--replace", help="Overwrite a finished film of which less than half would be kept.")
]

# ------------------------------------------------------------------ limits

BudgetMib = Annotated[int, typer.Option(min=1, help="Memory limit for all chunks in flight of one take, in MiB.")]
ChunkDeadline = Annotated[
    float,
    typer.Option("--chunk-deadline", min=1, help="Seconds that an actor may take for one chunk before it is replaced."),
]
