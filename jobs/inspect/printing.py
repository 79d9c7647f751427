"""Measures a film and prints the figures with their grades."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from longtake.jobs.feedback import plain_console
from longtake.jobs.progress import Progress
from longtake.pipeline.errors import SpecError
from longtake.pipeline.inspect.compare import Comparison, compare_films
from longtake.pipeline.inspect.report import Inspection, inspect_film
from longtake.pipeline.inspect.subject import open_subject
from longtake.pipeline.inspect.verdicts import Grade
from longtake.pipeline.media.picture import contact_sheet, write_png

_COLOURS = {"good": "green", "look": "yellow", "bad": "red", "told": "bright_black"}
_WORDS = {"good": "good", "look": "look", "bad": "bad", "told": ""}


FAIL_ON: dict[str, tuple[Grade, ...]] = {"look": ("look", "bad"), "bad": ("bad",)}
"""The grades at which `--fail-on` fails."""


def inspect_command(
    place: str, against: str | None, chunk: str | None, progress: Progress, *, html: Path | None, sheet: Path | None
) -> Grade:
    """Measure the film at `place`, print the figures, and write a page and a contact sheet if requested.

    Returns:
        The worst grade of all figures.
    """
    torch.set_num_threads(1)
    progress.phase(f"reading {place}")
    subject = open_subject(place, chunk)
    progress.count("measuring", "frames", subject.num_frames)
    film = inspect_film(subject, progress.update)
    progress.phase("comparing" if against else "printing")
    comparison = None if against is None else compare_films(film.subject.url, open_subject(against).url)
    progress.stop()
    if progress.feedback.as_json:
        compared = {} if comparison is None else {"against": asdict(comparison)}
        print(json.dumps({**film.as_dict(), **compared}))
    else:
        _print(film, comparison, plain_console())
    if html is not None:
        _write_page(film, comparison, html)
    if sheet is not None:
        _write_sheet(film, sheet)
    return film.grade


def _write_page(film: Inspection, comparison: Comparison | None, path: Path) -> None:
    from longtake.pipeline.inspect.page import to_html

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_html(film, comparison, path), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error}") from error


def _write_sheet(film: Inspection, path: Path) -> None:
    stills = [torch.from_numpy(still) for still in film.traces.video.pictures.stills.values()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(contact_sheet(stills, columns=8), path)
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error}") from error


def _print(film: Inspection, comparison: Comparison | None, console: Console) -> None:
    container = film.container
    console.print(Text.assemble((film.subject.title, "bold"), "  ", (film.grade, _COLOURS[film.grade])))
    shots = len(film.subject.scenes)
    found = f", {shots} shots" if film.subject.planned_frames is None and shots > 1 else ""
    sound = f"{container.samples} samples" if container.samples else "no sound"
    console.print(f"{container.seconds:g} s, {container.frames} frames{found}, {sound}")
    table = Table("figure", "value", "", "good", "", box=None, pad_edge=False)
    for verdict in film.verdicts:
        grade = Text(_WORDS[verdict.grade], style=_COLOURS[verdict.grade])
        table.add_row(verdict.title, verdict.shown, grade, verdict.limit, Text(verdict.says, style="bright_black"))
    console.print(table)
    if comparison is not None:
        console.print(_describe(comparison))
    for missing in film.missing:
        console.print(missing, style="bright_black")


def _describe(comparison: Comparison) -> str:
    length = "" if not comparison.extra_frames else f"; the other is {comparison.extra_frames:+d} frames longer"
    if comparison.psnr_db is None:
        alike = f"All {comparison.frames} frames are equal"
    else:
        alike = (
            f"{comparison.equal_frames} of {comparison.frames} frames are equal, PSNR {comparison.psnr_db:.2f} dB"
            f" (frame {comparison.worst_frame}: {comparison.worst_psnr_db:.2f} dB), SSIM {comparison.ssim:.4f}"
        )
    sound = {None: "", True: "; the sound is equal", False: "; the sound differs"}[comparison.sound_equal]
    ratio = "" if comparison.sound_snr_db is None else f" by {comparison.sound_snr_db:.1f} dB"
    return f"{alike}{length}{sound}{ratio}."
