"""`longtake upscale`: footage enlarged, by any number of workers, with the same result.

options.py    flags, and what they wish for
shop.py       who does the work: workers of a cluster, or of this machine
road.py       the road on Ray; `pipeline/upscale.py` is the same in one process
plan.py       what is told before: warnings, room, `--dry-run`
preview.py    a short stretch beside its bicubic enlargement
progress.py   what is drawn meanwhile
"""

import os
import signal
from contextlib import ExitStack

from rich.console import Console

from actors.upscalers import free_bytes
from jobs.upscale.options import UpscaleOptions
from jobs.upscale.plan import print_plan, tell_before
from jobs.upscale.preview import stretch, write_preview
from jobs.upscale.progress import UpscaleProgress
from jobs.upscale.road import upscale as upscale_on_ray
from jobs.upscale.shop import load_here, open_shop
from pipeline import upscale as alone
from pipeline.errors import SpecError
from pipeline.footage.index import open_footage
from pipeline.footage.values import Footage
from pipeline.journal.cancel import CancelWatch
from pipeline.journal.event_log import EventLog
from pipeline.observe import Observers
from pipeline.upscale import Upscaled
from pipeline.upscaling.output import Output
from pipeline.upscaling.plan import frames_wished
from pipeline.upscaling.preflight import check_memory, worker_bytes


def upscale_command(url: str, output_url: str, options: UpscaleOptions) -> None:
    """`longtake upscale`: upscale footage, or go on with what is there; on Ray, or in this process."""
    signal.signal(signal.SIGINT, _interrupted)
    console, wish = Console(), options.wish
    footage, output = open_footage(url), Output(output_url)
    if output.journal.url.startswith("memory:") and not options.in_process:
        raise SpecError(f"-o is {output_url}; memory belongs to one process: use a file, or add --in-process")
    frames = frames_wished(footage, wish)
    tell_before(footage, stretch(footage, frames) if options.preview else frames, options, output, console)
    if options.preview:
        _preview(footage, output_url, options, console)
    elif options.dry_run:
        _dry_run(footage, output, options, console)
    else:
        if options.fresh:
            alone.forget(output)
        run = _in_process if options.in_process else _on_ray
        _tell(run(footage, output, options, console), console)


def _in_process(footage: Footage, output: Output, options: UpscaleOptions, console: Console) -> Upscaled:
    model = load_here(options, console)
    check_memory(worker_bytes(footage, options.scale, model), free_bytes(next(model.parameters()).device.type))
    with EventLog(output.journal) as log, UpscaleProgress(footage, console) as progress:
        observer = Observers(log, progress, CancelWatch(output.journal))
        observer.event("road.start", road="in-process", threads=options.threads)
        return alone.upscale(footage, options.wish, model, output, observer)


def _on_ray(footage: Footage, output: Output, options: UpscaleOptions, console: Console) -> Upscaled:
    frames = frames_wished(footage, options.wish)
    with ExitStack() as stack:
        shop = open_shop(stack, options, footage, len(frames), load_here(options, console))
        log = stack.enter_context(EventLog(output.journal))
        progress = stack.enter_context(UpscaleProgress(footage, console))
        observer = Observers(log, progress)
        observer.event("road.start", road="ray", threads=options.threads)
        return upscale_on_ray(footage, options.wish, shop, output, observer, CancelWatch(output.journal).look)


def _dry_run(footage: Footage, output: Output, options: UpscaleOptions, console: Console) -> None:
    model, wish = load_here(options, console), options.wish
    with UpscaleProgress(footage, console) as progress:
        cuts = alone.cuts_of(footage, wish, output.journal, progress, keep=False)
    work = alone.open_upscaling(footage, cuts, wish, output.journal, alone.numerics(model), alone.grid_of(model))
    print_plan(work, model, console)


def _preview(footage: Footage, output_url: str, options: UpscaleOptions, console: Console) -> None:
    shown = stretch(footage, frames_wished(footage, options.wish))
    url = write_preview(footage, shown, options.wish, load_here(options, console), output_url)
    console.print(f"{url}: frames {shown.start}-{shown.stop - 1}, bicubic at the left, upscaled at the right")


def _tell(upscaled: Upscaled, console: Console) -> None:
    written, error = upscaled.written, upscaled.error
    state = "" if written.is_new else ", written before; nothing is to be done"
    console.print(f"{written.url}: {written.bytes / 2**20:.1f} MiB{state}", highlight=False)
    if error is not None:
        console.print(
            f"Behind the first border, frames {error.frames.start}-{error.frames.stop - 1}, the short warm-up differs"
            f" from an exact one by {error.mean:.4f} of 255 levels on average, {error.most:.2f} at most.",
            highlight=False,
        )


def _interrupted(*_: object) -> None:
    """The first Ctrl-C ends the work in order; a second one does not wait for that."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    raise KeyboardInterrupt
