"""The report as one HTML file: no scripts, no network; pictures, charts and short films are inside it."""

import os
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import fsspec
from markupsafe import Markup
from matplotlib.figure import Figure

from longtake.pipeline.inspect.compare import Comparison
from longtake.pipeline.inspect.drawings import (
    draw_changes,
    draw_drift,
    draw_offsets,
    draw_sound,
    draw_spectrum,
    drawn,
    png_of,
)
from longtake.pipeline.inspect.prompts import SceneReading
from longtake.pipeline.inspect.report import Inspection
from longtake.pipeline.inspect.verdicts import Grade, Verdict, unjudged
from longtake.pipeline.pages.template import render_page

_SUMMARY: dict[Grade, str] = {
    "good": "All figures are good",
    "look": "Worth a look",
    "bad": "Something is wrong",
    "told": "Not judged",
}
_SMALL = 200  # pixels; smaller pictures are shown with their pixels sharp
_MOST_ROWS = 100
_MOST_INLINE = 16 << 20  # bytes; a larger film is linked
_PLAYED = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm", ".mkv": "video/webm"}
_SCENE_NAMES = (
    "scene",
    "from",
    "prompt",
    "colour",
    "shape",
    "background",
    "motion",
    "px/s",
    "jumps",
    "bounces",
    "sounds",
    "F1",
)


@dataclass(frozen=True)
class _Cell:
    text: str
    tone: str = ""


def to_html(film: Inspection, comparison: Comparison | None = None, page: Path | None = None) -> str:
    """The report of an inspection, and of a comparison with another film if one was made.

    Args:
        page: where the report will be, if it is a file; a film too large to be part of it is linked from there.
    """
    pictures = film.traces.video.pictures
    player = _player(film.subject.url, page)
    return render_page(
        "pipeline/inspect/report.html",
        title=film.subject.title,
        about=_about(film),
        tone=film.grade,
        summary=_SUMMARY[film.grade],
        scaling="pixelated" if max(next(iter(pictures.stills.values())).shape[:2]) < _SMALL else "auto",
        player=player,
        no_player="" if player else f"The film is too far away to be played here: {film.subject.url}",
        verdicts=(*film.verdicts, *(_compared(comparison) if comparison is not None else ())),
        missing=film.missing,
        stills=_stills(film),
        charts=list(_charts(film)),
        shots=_shots(film),
        scene_names=_SCENE_NAMES,
        scenes=[list(_scene(scene)) for scene in film.scenes[:_MOST_ROWS]],
    )


def _player(url: str, page: Path | None) -> str | None:
    """The source of the player: the film if it is small, or its path from the page; None for a film elsewhere."""
    fs, path = fsspec.core.url_to_fs(url)
    content_type = _PLAYED.get(Path(path).suffix.lower(), "video/mp4")
    if fs.size(path) <= _MOST_INLINE:
        return f"data:{content_type};base64,{b64encode(fs.cat_file(path)).decode()}"
    if page is None or "file" not in fs.protocol:
        return None
    return quote(os.path.relpath(path, page.resolve().parent))


def _about(film: Inspection) -> str:
    container, chunks = film.container, len(film.subject.chunk_borders) + 1
    channels = f"{container.channels} channel{'s' if container.channels > 1 else ''}"
    sound = f"{container.samples} samples at {container.sample_rate} Hz, {channels}" if container.samples else "silent"
    parts = [
        _clock(container.seconds),
        f"{container.frames} frames at {container.fps:.5g} fps{'' if container.steady else ' on average'}",
        sound,
        *([f"{chunks} chunks"] if chunks > 1 else []),
        film.subject.url,
    ]
    return " · ".join(parts)


def _compared(comparison: Comparison) -> tuple[Verdict, ...]:
    psnr = unjudged("psnr_db", "PSNR", comparison.psnr_db, "{:.1f} dB", "To the other film, all frames; - if equal.")
    likeness = unjudged("ssim", "SSIM", comparison.ssim, "{:.4f}", "Mean over frames, luma; 1 if equal.")
    equal = comparison.equal_frames / max(1, comparison.frames)
    return psnr, likeness, unjudged("equal", "Equal frames", equal, "{:.1%}", "Bit for bit.")


def _charts(film: Inspection) -> Iterable[dict[str, str]]:
    if film.container.frames > 1:
        yield _chart(
            "Change from frame to frame",
            "Dots are chunk borders; one that stands out is a visible seam. Red lines are cuts, dashed: new prompts.",
            partial(draw_changes, film),
            2.6,
        )
        silent = film.traces.audio is None
        yield _chart(
            "Drift",
            "Per second, relative to the first quarter of each shot. A curve that leaves the band drifts.",
            partial(draw_drift, film),
            2.6 if silent else 3.9,
        )
    if film.traces.audio is not None:
        yield _chart(
            "Picture and sound",
            "The first seconds: sound onsets above motion events, and the matched pairs.",
            partial(draw_sound, film),
            3.2,
        )
        if film.traces.sync is not None and film.traces.sync.pairs:
            text = "Delay of the sound in every pair; the line is the median."
            yield _chart("Offsets", text, partial(draw_offsets, film), 2.6)
        yield _chart("Spectrum", "The whole film.", partial(draw_spectrum, film), 2.6)


def _chart(title: str, text: str, draw: Callable[[Figure], None], height: float) -> dict[str, str]:
    return {"title": title, "text": text, "svg": Markup(drawn(draw, height))}


def _stills(film: Inspection) -> list[dict[str, str]]:
    pictures = film.traces.video.pictures
    return [
        {
            "source": f"data:image/png;base64,{b64encode(png_of(frame)).decode()}",
            "number": str(number),
            "time": _clock(float(pictures.times_s[number])),
        }
        for number, frame in pictures.stills.items()
    ]


def _shots(film: Inspection) -> list[tuple[str, ...]]:
    """The rows of the shots of a film without a take, if there are several."""
    subject = film.subject
    if subject.planned_frames is not None or len(subject.scenes) < 2:
        return []
    drifts = {} if film.drift is None else {drift.scene: drift for drift in film.drift.scenes}
    times_s = film.traces.video.pictures.times_s
    rows = []
    for number, shot in enumerate(subject.scenes[:_MOST_ROWS]):
        drift = drifts.get(number)
        changes = (None,) * 3 if drift is None else (drift.contrast, drift.saturation, drift.sharpness)
        rows.append(
            (
                str(number + 1),
                _clock(float(times_s[shot.frames.start])),
                str(len(shot.frames)),
                *(_or_dash(change, "{:+.1%}") for change in changes),
                _or_dash(None if drift is None else drift.loudness_db, "{:+.1f} dB"),
                _or_dash(None if drift is None else drift.motion, "{:.2f}"),
            )
        )
    return rows


def _scene(scene: SceneReading) -> Iterable[_Cell]:
    yield _Cell(str(scene.scene), "dim")
    yield _Cell(_clock(scene.start_s), "dim")
    yield _Cell(scene.prompt or "-")
    for name in ("colour", "shape", "background", "motion"):
        right = None if scene.accuracy is None else getattr(scene.accuracy, name)
        tone = "dim" if right is None else "right" if right > 0.5 else "wrong"
        share = "" if right is None or name == "motion" or right in (0, 1) else f" {right:.0%}"
        yield _Cell(f"{getattr(scene, name) or 'nothing'}{share}", tone)
    yield _Cell(_or_dash(scene.speed_px_s, "{:.0f}"))
    yield from (_Cell(str(count)) for count in (scene.teleports, scene.bounces, scene.onsets))
    yield _Cell(_or_dash(scene.f1, "{:.2f}"))


def _or_dash(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


def _clock(seconds: float) -> str:
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"
