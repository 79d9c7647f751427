"""Flags and arguments that several commands share, so that each has one name and one help text."""

from fractions import Fraction
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

import typer

from longtake.jobs.feedback import LogLevel as Level, Mode

# ------------------------------------------------------------------ the groups in which help lists flags

COMPUTE = "Where and how it runs"
RANKS = "Several ranks"
LIMITS = "Limits"
FEEDBACK = "What is printed"

# ------------------------------------------------------------------ what to do

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value for one run, such as sampling.steps=4. Repeatable."
    ),
]
AllowScheme = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-scheme",
        metavar="SCHEME",
        help="Also open URLs of this scheme that a storyboard or manifest names, such as sftp. Repeatable.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan and exit.")]
TakeOrBatch = Annotated[
    str, typer.Argument(metavar="OUT", help="The output folder of a render or a batch: a path or fsspec URL.")
]
Take = Annotated[str, typer.Argument(metavar="OUT", help="The output folder of a render: a path or fsspec URL.")]

# ------------------------------------------------------------------ where and how a model runs

InProcess = Annotated[
    bool, typer.Option("--in-process", help="Run in this process, without Ray.", rich_help_panel=COMPUTE)
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to join (default: $RAY_ADDRESS, or a new cluster here; local: a new one).",
        rich_help_panel=COMPUTE,
    ),
]
DeviceName = Literal["auto", "cpu", "cuda"]
Device = Annotated[
    DeviceName,
    typer.Option(
        help="Where models run: cpu, cuda (one GPU for each rank or worker), or auto: cuda if there is a GPU.",
        rich_help_panel=COMPUTE,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Weight precision: float32, bfloat16 or float16 (default: as stored). Changes the output bits.",
        rich_help_panel=COMPUTE,
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        help="Quantize the denoiser to int8 or float8 (default: no). Changes the output.", rich_help_panel=COMPUTE
    ),
]
Accelerate = Annotated[
    list[str] | None,
    typer.Option(
        "--accelerate",
        metavar="NAME|PLAN.json",
        help="Skip passes that change little: auto, a method such as taylorseer, or a plan of longtake calibrate, in"
        " place of the storyboard's. Repeatable. Changes the output.",
    ),
]
Threads = Annotated[
    int, typer.Option(min=1, help="CPU threads of each process. Changes the output bits.", rich_help_panel=COMPUTE)
]
Offload = Annotated[
    str,
    typer.Option(
        help="Do not keep in memory: layers (of the denoiser), encoder (of prompts), none, or auto: if needed.",
        rich_help_panel=COMPUTE,
    ),
]
Numerics = Annotated[
    str,
    typer.Option(
        help="exact: only processors that compute the same bits take part and resume; relaxed: any.",
        rich_help_panel=COMPUTE,
    ),
]
Compile = Annotated[
    str,
    typer.Option(
        help="Compile the denoiser with PyTorch: blocks, none, or auto: blocks on a GPU. Changes the output bits.",
        rich_help_panel=COMPUTE,
    ),
]
AnySize = Annotated[
    bool, typer.Option("--any-size", help="Also render sizes that the model was not trained on; expect noise.")
]

# ------------------------------------------------------------------ what is there

Replace = Annotated[
    bool, typer.Option("--replace", help="Overwrite a finished film of which less than half would be kept.")
]

# ------------------------------------------------------------------ limits

BudgetMib = Annotated[
    int,
    typer.Option(min=1, help="Memory limit for all chunks in flight of one take, in MiB.", rich_help_panel=LIMITS),
]
ChunkDeadline = Annotated[
    float,
    typer.Option(
        "--chunk-deadline",
        min=1,
        help="Seconds that an actor may take for one chunk before it is replaced; an actor whose chunks take long may"
        " take ten times its longest.",
        rich_help_panel=LIMITS,
    ),
]
WaitForNodes = Annotated[
    str,
    typer.Option(
        "--wait-for-nodes",
        metavar="TIME",
        help="How long to wait for nodes that a cluster with an autoscaler has yet to start: 10m, 90s.",
        rich_help_panel=LIMITS,
    ),
]


def nodes_s(wait_for_nodes: str) -> float:
    """Seconds of `--wait-for-nodes`. Raises `SpecError` for what is no length of time."""
    from longtake.pipeline.durations import parse_duration
    from longtake.pipeline.errors import SpecError

    try:
        seconds, frames = parse_duration(wait_for_nodes)
    except SpecError:
        seconds, frames = Fraction(0), 1
    if frames:
        raise SpecError(f"--wait-for-nodes is {wait_for_nodes}; write a number with its unit: 90s, 10m or 1h")
    return float(seconds)


def accelerate_override(accelerate: list[str] | None) -> tuple[str, ...]:
    """`--accelerate` as an override of a storyboard; its files are relative to the working directory."""
    if accelerate is None:
        return ()
    found = [
        str(Path(name).absolute()) if name.endswith(".json") and "://" not in name else name for name in accelerate
    ]
    return (f"sampling.accelerate={dumps(found)}",)


# ------------------------------------------------------------------ what is printed

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object on one line; all else goes to standard error.",
        rich_help_panel=FEEDBACK,
    ),
]  # fmt: skip
ProgressMode = Annotated[
    Mode,
    typer.Option(
        "--progress",
        help="bars; plain: a line every ten seconds; json: an object a line; none; or auto: bars in a terminal,"
        " otherwise plain.",
        rich_help_panel=FEEDBACK,
    ),
]
Verbose = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, show_default=False, rich_help_panel=FEEDBACK,
        help="Print every event; -vv: also the logs of Ray and the actors.",
    ),
]  # fmt: skip
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="Print only the result and errors.", rich_help_panel=FEEDBACK),
]
LogLevel = Annotated[
    Level | None,
    typer.Option(
        "--log-level", help="Show the logs of Ray and the actors from this level on (default: none).",
        rich_help_panel=FEEDBACK,
    ),
]  # fmt: skip
