"""`longtake upscale`: upscale footage with any number of workers and the same result.

command.py    flags
options.py    the options as one value, and the `UpscaleSpec` that follows from them
workers.py    the workers: on a cluster, or on this machine
plan.py       checks and warnings before the first frame, and `--dry-run`
preview.py    a short stretch next to its bicubic enlargement
progress.py   the progress bar

On Ray the pipeline is `actors/upscale_film.py`; in one process it is `pipeline/upscale_film.py`.
"""

from contextlib import ExitStack

from rich.console import Console

from longtake.actors.upscale_actor import free_bytes
from longtake.actors.upscale_film import upscale as upscale_on_ray
from longtake.jobs.interrupt import interrupt_once
from longtake.jobs.upscale.options import UpscaleOptions
from longtake.jobs.upscale.plan import check_and_warn, print_plan
from longtake.jobs.upscale.preview import stretch, write_preview
from longtake.jobs.upscale.progress import UpscaleProgress
from longtake.jobs.upscale.workers import load_here, open_workers
from longtake.pipeline import upscale_film as alone
from longtake.pipeline.errors import SpecError
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.cancel import CancelWatch
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.models.streaming_upscaler import grid_of
from longtake.pipeline.observe import Observers
from longtake.pipeline.upscale_film import Upscaled
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import frames_to_upscale
from longtake.pipeline.upscaling.preflight import check_memory, worker_bytes
from longtake.pipeline.upscaling.work import numerics, open_upscaling


def upscale_command(url: str, output_url: str, options: UpscaleOptions) -> None:
    """Upscale footage, on Ray or in this process; resumes from the segments that are finished."""
    interrupt_once()
    console, spec = Console(), options.spec
    footage, output = open_footage(url), Output(output_url)
    if output.journal.url.startswith("memory:") and not options.in_process:
        raise SpecError(f"-o is {output_url}; memory belongs to one process: use a file, or add --in-process")
    frames = frames_to_upscale(footage, spec)
    check_and_warn(footage, stretch(footage, frames) if options.preview else frames, options, output, console)
    if options.preview:
        _preview(footage, output_url, options, console)
    elif options.dry_run:
        _dry_run(footage, output, options, console)
    else:
        if options.fresh:
            alone.forget(output)
        run = _in_process if options.in_process else _on_ray
        _print_result(run(footage, output, options, console), console)


def _in_process(footage: Footage, output: Output, options: UpscaleOptions, console: Console) -> Upscaled:
    model = load_here(options, console)
    check_memory(worker_bytes(footage, options.scale, model), free_bytes(next(model.parameters()).device.type))
    with EventLog(output.journal) as log, UpscaleProgress(footage, console) as progress:
        observer = Observers(log, progress, CancelWatch(output.journal))
        observer.event("road.start", road="in-process", threads=options.threads)
        return alone.upscale(footage, options.spec, model, output, observer)


def _on_ray(footage: Footage, output: Output, options: UpscaleOptions, console: Console) -> Upscaled:
    frames = frames_to_upscale(footage, options.spec)
    with ExitStack() as stack:
        workers = open_workers(stack, options, footage, len(frames), load_here(options, console))
        log = stack.enter_context(EventLog(output.journal))
        progress = stack.enter_context(UpscaleProgress(footage, console))
        observer = Observers(log, progress)
        observer.event("road.start", road="ray", threads=options.threads)
        return upscale_on_ray(footage, options.spec, workers, output, observer, CancelWatch(output.journal).look)


def _dry_run(footage: Footage, output: Output, options: UpscaleOptions, console: Console) -> None:
    model, spec = load_here(options, console), options.spec
    with UpscaleProgress(footage, console) as progress:
        cuts = alone.cuts_of(footage, spec, output.journal, progress, keep=False)
    work = open_upscaling(footage, cuts, spec, output.journal, numerics(model), grid_of(model))
    print_plan(work, model, console)


def _preview(footage: Footage, output_url: str, options: UpscaleOptions, console: Console) -> None:
    shown = stretch(footage, frames_to_upscale(footage, options.spec))
    url = write_preview(footage, shown, options.spec, load_here(options, console), output_url)
    console.print(f"{url}: frames {shown.start}-{shown.stop - 1}, left bicubic, right upscaled")


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
