"""Flags of `longtake bench`."""

from typing import Annotated

import typer

from longtake.jobs.options import Json
from longtake.pipeline.errors import SpecError


def command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The bench to run; see --list.")] = None,
    json: Json = False,
    list_keys: Annotated[bool, typer.Option("--list", help="Explain all benches and their figures.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Less work, same limits.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="The least work that runs all code; no limits.")] = False,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Number of runs; figures are medians (default: by bench).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The random seed.")] = 0,
    ranks: Annotated[
        int | None, typer.Option(min=2, help="Ranks, for benches that compare gangs (default: by bench).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model.safetensors to judge, for fidelity and second-world (default: the shipped one)."),
    ] = None,
) -> None:
    """Measure what longtake promises; exit with 1 if a figure misses its limit."""
    from longtake.jobs.bench.figures import BenchOptions, Size
    from longtake.jobs.bench.run import list_benches, run_bench
    from longtake.jobs.feedback import Feedback
    from longtake.jobs.progress import Progress

    if list_keys or name is None:
        list_benches()
        return
    if quick and smoke:
        raise SpecError("--quick and --smoke are two sizes of a bench; leave one of them out")
    size: Size = "smoke" if smoke else "quick" if quick else "full"
    with Progress(Feedback(json=True), f"measuring {name}"):
        kept = run_bench(name, BenchOptions(repeat, seed, size, ranks, model), as_json=json)
    if not kept:
        raise typer.Exit(1)
