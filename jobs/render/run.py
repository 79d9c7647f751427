"""Render a storyboard: on Ray, or in this process."""

from contextlib import nullcontext
from time import monotonic

from longtake.actors.rendering import RenderOptions, open_render, render
from longtake.jobs.progress import Progress
from longtake.jobs.render.progress import RenderProgress
from longtake.jobs.render.request import Request, print_finished
from longtake.jobs.take import print_before, print_dry_run, print_film
from longtake.jobs.watch.serve import shown
from longtake.pipeline.journal.finished import read_finished
from longtake.pipeline.spec import Storyboard


def render_command(
    storyboard: Storyboard, request: Request, options: RenderOptions, progress: Progress, *, watch: bool
) -> None:
    """`longtake render`: render, or resume what the output holds, or find that it is finished.

    Args:
        request: the command, which is remembered with the film that it renders.
        watch: whether to show the render in a browser, too.
    """
    started, feedback = monotonic(), progress.feedback
    progress.phase(f"loading {storyboard.model}")
    take = open_render(storyboard, request.output, options)
    record = read_finished(take.store)
    if record is None or record.key != take.film_key:
        print_before(take, options, feedback.console)
        observer = RenderProgress(take, progress)
        with shown(take.store, feedback.console) if watch else nullcontext():
            film = render(take, options, observer)
        progress.stop()
        seconds = monotonic() - started
        print_film(film, feedback, kept=observer.kept, rendered=observer.rendered, seconds=seconds)
    else:
        progress.stop()
        print_finished(take.store, record, feedback)
    request.remember(take)


def dry_run_command(storyboard: Storyboard, output: str, options: RenderOptions, progress: Progress) -> None:
    """`longtake render --dry-run`: check everything, and print the plan."""
    progress.phase(f"loading {storyboard.model}")
    take = open_render(storyboard, output, options)
    progress.phase("timing one chunk")
    print_dry_run(take, options, progress.feedback)
