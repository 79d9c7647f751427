"""`longtake upscale`: upscale footage with any number of workers and the same result.

command.py    flags
plan.py       the plan of `--dry-run`
preview.py    a short stretch next to its bicubic enlargement
progress.py   the progress bar

What it shares with the Python API is in `actors/upscaling.py`.
"""

from typing import Any

from longtake.actors.cluster import cluster_note
from longtake.actors.upscale_options import UpscaleOptions
from longtake.actors.upscale_workers import load_here
from longtake.actors.upscaling import check, upscale
from longtake.jobs.feedback import Feedback, plain_console, print_json
from longtake.jobs.progress import Progress
from longtake.jobs.upscale.plan import plan_card, print_plan
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


def upscale_command(
    url: str, output_url: str, options: UpscaleOptions, progress: Progress, *, preview: bool, dry_run: bool
) -> None:
    """Upscale footage, on Ray or in this process; resumes from the segments that are finished."""
    check_input(url)
    progress.phase("reading the footage")
    feedback = progress.feedback
    console, output = feedback.console, Output(output_url)
    footage = open_footage(url, options.damaged, options.deinterlace)
    frames = frames_to_upscale(footage, options.spec)
    shown = stretch(footage, frames) if preview else frames
    for warning in check(footage, shown, output, options, preview=preview):
        console.print(warning, style="yellow")
    if not options.in_process and (note := cluster_note(options.address)):
        console.print(f"{note}.", style="yellow")
    progress.phase(f"loading {options.model}")
    model = load_here(options)
    for note in upscaler_notes(options.model, model):
        console.print(f"{note}.", style="yellow")
    if preview:
        progress.phase("upscaling the preview")
        written = write_preview(footage, shown, options.spec, model, output_url)
        progress.stop()
        text = f"{written}: frames {shown.start}-{shown.stop - 1}, left bicubic, right upscaled"
        feedback.result(text, preview=written, frames=[shown.start, shown.stop])
    elif dry_run:
        _dry_run(footage, output, options, model, progress)
    else:
        upscaled = upscale(footage, output, options, model, UpscaleProgress(footage, progress))
        progress.stop()
        _print_result(upscaled, feedback)


def _dry_run(
    footage: Footage, output: Output, options: UpscaleOptions, model: StreamingUpscaler, progress: Progress
) -> None:
    observer = UpscaleProgress(footage, progress)
    cuts = alone.cuts_of(footage, options.spec, output.journal, observer, keep=False)
    progress.phase("timing the upscaler")
    work = open_upscaling(footage, cuts, options.spec, output.journal, numerics(model, options.policy), grid_of(model))
    card = plan_card(work, model)
    progress.stop()
    if progress.feedback.as_json:
        print_json(card)
    else:
        print_plan(work, card, plain_console())


def _print_result(upscaled: Upscaled, feedback: Feedback) -> None:
    written, error = upscaled.written, upscaled.error
    text = f"{written.url}: {written.bytes / 2**20:.1f} MiB"
    if not written.is_new:
        text += ", already written; nothing to do"
    fields: dict[str, Any] = {"output": written.url, "bytes": written.bytes, "is_new": written.is_new}
    if error is not None:
        text += (
            f"\nAfter the first segment border, in frames {error.frames.start}-{error.frames.stop - 1}, the short"
            f" warm-up differs from an exact one by {error.mean:.4f} of 255 levels on average, {error.most:.2f} at"
            " most."
        )
        fields |= {"warmup_error_mean": error.mean, "warmup_error_most": error.most}
    feedback.result(text, **fields)
