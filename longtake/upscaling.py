"""Upscale footage from Python."""

import os
from typing import Any, TypedDict, Unpack

from longtake.actors.upscale_options import UpscaleOptions as Options
from longtake.actors.upscale_workers import load_here
from longtake.actors.upscaling import check, upscale as upscale_footage
from longtake.options import check_known
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.upscaling.output import Output, Written
from longtake.pipeline.upscaling.plan import frames_to_upscale


class UpscaleOptions(TypedDict, total=False):
    """Options of `upscale`; they mean the same as the flags of `longtake upscale`.

    Attributes:
        scale: 2 or 4.
        workers: processes that share the work (default: one for each GPU or core).
        model: the upscaler: a name, or the path or URL of its weights.
        codec: "h264", "hevc", "av1", "prores" or "ffv1".
        quality: the codec's constant quantizer; lower is better and larger.
        continuity: "exact", "handoff" or "warmup=N".
        start, end: such as "90s" or "48f".
        in_process, address, fresh, device, threads, numerics: as in `render`.
        damaged: for frames that do not decode: "stop", "skip" or "hold".
        deinterlace: "auto" or "off".
        scene_threshold, segment_frames, segment_deadline_s: see `longtake upscale --help`.
    """

    scale: int
    workers: int
    model: str
    codec: str
    quality: int
    continuity: str
    start: str
    end: str
    in_process: bool
    address: str
    fresh: bool
    device: str
    threads: int
    numerics: str
    scene_threshold: float
    segment_frames: int
    segment_deadline_s: float
    damaged: str
    deinterlace: str


def upscale(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    observer: Observer = SILENT,
    **options: Unpack[UpscaleOptions],
) -> Written:
    """Enlarge a film of any length in constant memory, or resume it. Any number of workers writes the same file.

    Args:
        source: the film: a path or fsspec URL.
        output: the file to write: .mp4, .mov or .mkv.
        observer: receives an event for every segment, and `upscale.warning` for what the output will lack.
        options: see `UpscaleOptions`.

    Returns:
        What was written: `url`, `bytes`, `warnings`, `is_new`.

    Raises:
        SpecError: an option does not fit the footage or the upscaler; nothing was written.
        MediaError: the footage cannot be decoded, or the output cannot be written.
        LongtakeError: any other failure; finished segments are kept.
    """
    check_known(options, UpscaleOptions.__annotations__)
    values: dict[str, Any] = {**options}
    resolved = Options(**values)
    footage, target = open_footage(os.fspath(source), resolved.damaged, resolved.deinterlace), Output(os.fspath(output))
    for warning in check(footage, frames_to_upscale(footage, resolved.spec), target, resolved):
        observer.event("upscale.warning", message=warning)
    return upscale_footage(footage, target, resolved, load_here(resolved), observer).written
