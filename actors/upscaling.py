"""Upscale footage in this process or on Ray: what the upscale command and the Python API share. Nothing here prints."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from longtake.actors.capacity import check_processes
from longtake.actors.cluster import joins
from longtake.actors.upscale_actor import free_bytes
from longtake.actors.upscale_film import upscale as upscale_on_ray
from longtake.actors.upscale_options import UpscaleOptions
from longtake.actors.upscale_workers import open_workers
from longtake.pipeline import upscale_film as alone
from longtake.pipeline.errors import SpecError
from longtake.pipeline.footage.codecs import FootageEncoding
from longtake.pipeline.footage.mux import check_output, rehearse
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.cancel import CancelWatch
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.journal.root import check_folder
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler
from longtake.pipeline.observe import Observer, Observers
from longtake.pipeline.upscale_film import Upscaled
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import frames_to_upscale
from longtake.pipeline.upscaling.preflight import check_disk, check_memory, check_size, picture_bytes, worker_bytes


def check(
    footage: Footage, frames: range, output: Output, options: UpscaleOptions, *, preview: bool = False
) -> Iterator[str]:
    """Check everything that can be checked before the first frame; yields what the output will lack.

    Args:
        preview: the output itself is not written.

    Raises:
        SpecError: the output is the footage, cannot be written, was not written by longtake, would be made again as
            a whole although it is finished, or is too large for the codec.
        MediaError: the encoder or the container refuses the film.
        CapacityError: the disk has too little space.
    """
    if output.is_at(footage.url):
        raise SpecError(f"-o is {output.url}, the footage itself; use another path")
    if output.is_local:
        check_folder(Path(output.url).parent, output.url)
    if not preview:
        output.check_ours()
        _check_kept(footage, output, options)
    if output.journal.url.startswith("memory:") and not options.in_process:
        raise SpecError(f"-o is {output.url}; memory belongs to one process: use a file, or add --in-process")
    if options.workers is not None and not joins(options.address):
        check_processes(options.workers, f"--workers is {options.workers}")
    encoding = FootageEncoding(options.codec, options.quality, options.threads)
    check_size(footage, options.scale, encoding)
    yield from check_output(footage, encoding, Path(output.url))
    rehearse(footage, encoding, options.scale, Path(output.url))
    num_bytes = picture_bytes(footage, frames, options.scale, encoding)
    if crowded := check_disk(num_bytes, output.kept_bytes(), output.free_bytes()):
        yield crowded


def _check_kept(footage: Footage, output: Output, options: UpscaleOptions) -> None:
    changes = [] if options.fresh else alone.lost(footage, options.spec, output)
    if changes:
        raise SpecError(
            f"{output.url} is finished, and all of it would be made again ({'; '.join(changes)}); add --fresh to"
            " overwrite it, or use another -o"
        )


def upscale(
    footage: Footage, output: Output, options: UpscaleOptions, model: StreamingUpscaler, observer: Observer
) -> Upscaled:
    """Upscale footage, or resume from the segments that are finished.

    Args:
        model: from `upscale_workers.load_here`.
        observer: receives the events that also go to the journal's `events.jsonl`.

    Raises:
        CapacityError: there is too little memory for the workers.
        PoisonError: a segment failed too often.
        Cancelled: `longtake cancel` asked for it.
    """
    if options.fresh:
        alone.forget(output)
    if options.in_process:
        check_memory(worker_bytes(footage, options.scale, model), free_bytes(next(model.parameters()).device.type))
        with EventLog(output.journal) as log:
            observers = Observers(log, observer, CancelWatch(output.journal))
            observers.event("road.start", road="in-process", threads=options.threads)
            return alone.upscale(footage, options.spec, model, output, observers, options.policy)
    with ExitStack() as stack:
        num_frames = len(frames_to_upscale(footage, options.spec))
        workers = open_workers(stack, options, footage, num_frames, model)
        observers = Observers(stack.enter_context(EventLog(output.journal)), observer)
        observers.event("road.start", road="ray", threads=options.threads)
        return upscale_on_ray(footage, options.spec, workers, output, observers, CancelWatch(output.journal).look)
