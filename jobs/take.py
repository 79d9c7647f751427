"""Print what a render will reuse and what it rendered; `--dry-run`."""

from rich.console import Console

from longtake.actors.rendering import RenderOptions, notes
from longtake.jobs.dry_run import plan_card, print_plan
from longtake.jobs.feedback import Feedback, plain_console, print_json
from longtake.pipeline.journal.root import has_take
from longtake.pipeline.stages.publish import Film
from longtake.pipeline.take import Take


def print_before(take: Take, options: RenderOptions, console: Console) -> None:
    """Print how much of an earlier render is reused, and what the user should know."""
    print_reused(take, console)
    for note in notes(take, options):
        console.print(f"{note}.", style="yellow")


def print_dry_run(take: Take, options: RenderOptions, feedback: Feedback) -> None:
    """Print the plan."""
    print_before(take, options, feedback.console)
    degrees = options.gang.degrees(take.plan)
    if feedback.as_json:
        print_json(plan_card(take.plan, take.model, degrees, options.load))
    else:
        print_plan(take.plan, take.model, degrees, plain_console(), options.load)


def print_reused(take: Take, console: Console) -> None:
    """Print how much of an earlier render is reused, and why the rest is not."""
    if not has_take(take.store):
        return
    chunks, kept = len(take.plan.chunks), take.journal.kept("latents")
    first = next((index for index in range(chunks) if index not in kept), None)
    why = "" if first is None else f"; chunk {first}: {take.journal.why_not('latents', first)}"
    console.print(f"Resuming in {take.store.url}: {len(kept)} of {chunks} chunks are kept{why}.")


def print_film(film: Film, feedback: Feedback, *, kept: int, rendered: int, seconds: float) -> None:
    """Print where the film is.

    Args:
        kept: chunks that an earlier render finished.
        rendered: chunks that were rendered now.
        seconds: how long the command took.
    """
    text = f"{film.url}: {float(film.duration_s):g} s, {film.num_frames} frames, {film.num_samples} samples"
    if film.playlist_url:
        text += f"\n{film.playlist_url}: the same film as a live playlist"
    feedback.result(
        text,
        film=film.url,
        playlist=film.playlist_url,
        film_s=float(film.duration_s),
        frames=film.num_frames,
        samples=film.num_samples,
        kept_chunks=kept,
        rendered_chunks=rendered,
        seconds=round(seconds, 2),
    )
