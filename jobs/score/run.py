"""`longtake score`: sound for footage of any length. The packets of its picture are copied unchanged."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from yaml import safe_dump

from longtake.actors.rendering import RenderOptions, open_render, render
from longtake.jobs.progress import Progress
from longtake.jobs.render.progress import RenderProgress
from longtake.jobs.take import print_before, print_dry_run
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.rescore import check_rescored, write_rescored
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.root import check_input
from longtake.pipeline.spec import Storyboard, parse_storyboard
from longtake.pipeline.upscaling.output import Output


def storyboard_of(
    footage_url: str, prompt: str, model: str, seed: int, overrides: Sequence[str]
) -> tuple[Footage, Storyboard]:
    """The footage, and a film of one scene whose picture it is, as long as it is."""
    check_input(footage_url)
    footage = open_footage(footage_url)
    tick_s, last = footage.time_base, footage.pts[-1] + footage.durations[-1]
    url = footage.url if "://" in footage.url else str(Path(footage.url).absolute())
    scene = {"prompt": prompt, "duration": f"{float((last - footage.pts[0]) * tick_s):.9f}s", "video": url}
    text = safe_dump({"model": model, "seed": seed, "output": {"hls": False}, "scenes": [scene]}, allow_unicode=True)
    return footage, parse_storyboard(text, overrides, source=footage.url)


def score_command(
    footage: Footage,
    output_url: str,
    storyboard: Storyboard,
    options: RenderOptions,
    progress: Progress,
    *,
    dry_run: bool,
) -> None:
    """Render the sound of a film, or resume it, and write the film with it."""
    output, feedback = Output(output_url), progress.feedback
    output.check_ours()
    for loss in check_rescored(footage, Path(output.url)):
        feedback.console.print(f"{loss}.", style="yellow", markup=False)
    progress.phase(f"loading {storyboard.model}")
    take = open_render(storyboard, output.journal.url, options)
    if dry_run:
        progress.phase("timing one chunk")
        print_dry_run(take, options, feedback)
        return
    key = sha256(f"{take.film_key} {footage.fingerprint}".encode()).hexdigest()
    written = output.written(key)
    if written is None:
        print_before(take, options, feedback.console)
        film = take.published() or render(take, options, RenderProgress(take, progress))
        progress.phase("writing the film")
        written = output.write_by(lambda path: write_rescored(footage, film.url, path), key)
    progress.stop()
    text = f"{written.url}: {written.bytes / 2**20:.1f} MiB" + ("" if written.is_new else ", already written")
    feedback.result(text, output=written.url, bytes=written.bytes, is_new=written.is_new)
