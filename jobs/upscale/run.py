"""`longtake upscale`: upscale footage with any number of workers and the same result.

command.py    flags
plan.py       the plan of `--dry-run`
preview.py    a short stretch next to its bicubic enlargement
progress.py   the progress bar

What it shares with the Python API is in `actors/upscaling.py`.
"""

from rich.console import Console

from longtake.actors.cluster import cluster_note
from longtake.actors.upscale_options import UpscaleOptions
from longtake.actors.upscale_workers import load_here
from longtake.actors.upscaling import check, upscale
from longtake.jobs.interrupt import interrupt_once
from longtake.jobs.upscale.plan import print_plan
from longtake.jobs.upscale.preview import stretch, write_preview
from longtake.jobs.upscale.progress import UpscaleProgress
from longtake.pipeline import upscale_film as alone
from longtake.pipeline.adapters.upscalers import upscaler_notes
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.root import check_input
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler, grid_of
from longtake.pipeline.upscale_film import Upscaled
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import frames_to_upscale
from longtake.pipeline.upscaling.work import numerics, open_upscaling


def upscale_command(url: str, output_url: str, options: UpscaleOptions, *, preview: bool, dry_run: bool) -> None:
    """Upscale footage, on Ray or in this process; resumes from the segments that are finished."""
    interrupt_once()
    check_input(url)
    console, footage, output = Console(), open_footage(url, options.damaged, options.deinterlace), Output(output_url)
    frames = frames_to_upscale(footage, options.spec)
    shown = stretch(footage, frames) if preview else frames
    for warning in check(footage, shown, output, options, preview=preview):
        console.print(warning, style="yellow", highlight=False, markup=False)
    if not options.in_process and (note := cluster_note(options.address)):
        console.print(f"{note}.", style="yellow", highlight=False, markup=False)
    model = load_here(options)
    for note in upscaler_notes(options.model, model):
        console.print(f"{note}.", style="yellow", highlight=False, markup=False)
    if preview:
        written = write_preview(footage, shown, options.spec, model, output_url)
        console.print(f"{written}: frames {shown.start}-{shown.stop - 1}, left bicubic, right upscaled")
    elif dry_run:
        _dry_run(footage, output, options, model, console)
    else:
        with UpscaleProgress(footage, console) as progress:
            upscaled = upscale(footage, output, options, model, progress)
        _print_result(upscaled, console)


def _dry_run(
    footage: Footage, output: Output, options: UpscaleOptions, model: StreamingUpscaler, console: Console
) -> None:
    with UpscaleProgress(footage, console) as progress:
        cuts = alone.cuts_of(footage, options.spec, output.journal, progress, keep=False)
    work = open_upscaling(footage, cuts, options.spec, output.journal, numerics(model), grid_of(model))
    print_plan(work, model, console)


def _print_result(upscaled: Upscaled, console: Console) -> None:
    written, error = upscaled.written, upscaled.error
    state = "" if written.is_new else ", already written; nothing to do"
    console.print(f"{written.url}: {written.bytes / 2**20:.1f} MiB{state}", highlight=False)
    if error is not None:
        console.print(
            f"After the first segment border, in frames {error.frames.start}-{error.frames.stop - 1}, the short warm-up"
            f" differs from an exact one by {error.mean:.4f} of 255 levels on average, {error.most:.2f} at most.",
            highlight=False,
        )
