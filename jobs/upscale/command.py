"""Flags of `longtake upscale`."""

from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.interrupt import resumable
from longtake.jobs.options import (
    COMPUTE,
    LIMITS,
    Address,
    Device,
    DryRun,
    InProcess,
    Json,
    LogLevel,
    Numerics,
    ProgressMode,
    Quiet,
    Threads,
    Verbose,
)


def command(
    footage: Annotated[str, typer.Argument(metavar="IN", help="The film to upscale: a path or fsspec URL.")],
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="OUT", help="The .mp4, .mov or .mkv to write: a path or fsspec URL."),
    ],
    scale: Annotated[int, typer.Option(help="Enlargement of each side: 2 or 4.")] = 2,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share the work (default: one for each GPU, or each CPU core).",
            rich_help_panel=COMPUTE,
        ),
    ] = None,
    codec: Annotated[str, typer.Option(help="Video codec: h264, hevc, av1, prores, or ffv1 (lossless).")] = "h264",
    quality: Annotated[
        int | None,
        typer.Option(min=0, help="Constant quantizer: lower = better quality, bigger file (default: by codec)."),
    ] = None,
    continuity: Annotated[
        str,
        typer.Option(
            help="Across segments: exact, handoff (state passed on; sequential), or warmup=N (approximate, N frames)."
        ),
    ] = "exact",
    start: Annotated[
        str | None, typer.Option(help="Where to begin: 90s, 1m30s, 1:30.5, or 48f for a frame (default: the start).")
    ] = None,
    end: Annotated[str | None, typer.Option(help="Where to end, in the same format (default: the end).")] = None,
    scene_threshold: Annotated[
        float,
        typer.Option(min=0, max=1, help="Change in brightness that counts as a cut, 0 to 1; 0 detects no cuts."),
    ] = 0.1,
    segment_frames: Annotated[
        int, typer.Option(min=1, help="Frames of a segment, the unit of work, storage and resume.")
    ] = 128,
    damaged: Annotated[
        str, typer.Option(help="For frames that do not decode: stop, skip them, or hold the frame before.")
    ] = "stop",
    deinterlace: Annotated[str, typer.Option(help="Deinterlace interlaced footage: auto or off.")] = "auto",
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Upscale two seconds from the middle only, next to a bicubic enlargement."),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard finished segments and start over.")] = False,
    in_process: InProcess = False,
    address: Address = None,
    dry_run: DryRun = False,
    model: Annotated[
        str,
        typer.Option(
            "--upscaler",
            "--model",
            help="The upscaler: a name, or the path of its weights (longtake or FlashVSR).",
            rich_help_panel=COMPUTE,
        ),
    ] = "upscaler",
    device: Device = "auto",
    threads: Threads = 1,
    numerics: Numerics = "exact",
    segment_deadline_s: Annotated[
        float,
        typer.Option(
            "--segment-deadline",
            min=1,
            help="Seconds that a worker may take for one segment before it is replaced; a worker whose segments take"
            " long may take ten times its longest.",
            rich_help_panel=LIMITS,
        ),
    ] = 900.0,
    progress: ProgressMode = "auto",
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_level: LogLevel = None,
) -> None:
    """Upscale a film of any length; the result does not depend on the number of workers.

    Sound, subtitles, chapters and metadata are preserved. Run the same command again to resume.
    """
    from longtake.jobs.progress import Progress

    feedback = Feedback(progress, json, verbose, quiet, log_level)
    with resumable("finished segments"), Progress(feedback, "loading PyTorch and Ray") as shown:
        from longtake.actors.upscale_options import UpscaleOptions
        from longtake.jobs.upscale.run import upscale_command

        options = UpscaleOptions(
            scale=scale,
            workers=workers,
            codec=codec,
            quality=quality,
            continuity=continuity,
            start=start,
            end=end,
            scene_threshold=scene_threshold,
            segment_frames=segment_frames,
            fresh=fresh,
            in_process=in_process,
            address=address,
            model=model,
            device=device,
            threads=threads,
            numerics=numerics,
            segment_deadline_s=segment_deadline_s,
            damaged=damaged,
            deinterlace=deinterlace,
        )
        upscale_command(footage, output, options, shown, preview=preview, dry_run=dry_run)
