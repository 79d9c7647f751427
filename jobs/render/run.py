"""Render a storyboard: on Ray, or in this process."""

from pathlib import Path

from rich.console import Console

from longtake.actors.rendering import RenderOptions, open_render, render
from longtake.jobs.interrupt import interrupt_once
from longtake.jobs.progress import Progress
from longtake.jobs.take import print_before, print_dry_run, print_film
from longtake.pipeline.names import scheme_of
from longtake.pipeline.spec import load_storyboard, split_strength


def lora_key(option: str) -> dict[str, str | float]:
    """The storyboard's entry for `--lora FILE[:STRENGTH]`; a path is relative to the working directory."""
    file, strength = split_strength(option)
    return {"file": file if scheme_of(file) else str(Path(file).expanduser().absolute()), "strength": strength}


def render_command(url: str, output: str, overrides: tuple[str, ...], options: RenderOptions, *, dry_run: bool) -> None:
    """`longtake render`: render, or resume what the output holds."""
    interrupt_once()
    console = Console()
    take = open_render(load_storyboard(url, overrides), output, options)
    if dry_run:
        print_dry_run(take, options, console)
        return
    print_before(take, options, console)
    with Progress(take.plan, console) as progress:
        film = render(take, options, progress)
    print_film(film, console)
