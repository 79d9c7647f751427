"""The report as one self-contained HTML file: no scripts, no network, pictures inlined."""

from base64 import b64encode
from collections.abc import Iterable
from functools import partial
from html import escape
from importlib import resources
from string import Template

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

_PAGE = Template(resources.files("longtake.pipeline").joinpath("inspect/report.html").read_text("utf-8"))
_SUMMARY: dict[Grade, str] = {
    "good": "All figures are good",
    "look": "Worth a look",
    "bad": "Something is wrong",
    "told": "Not judged",
}
_SMALL = 200  # pixels; smaller pictures are shown with their pixels sharp
_MOST_SCENES = 100


def to_html(film: Inspection, comparison: Comparison | None = None) -> str:
    """The report of an inspection, and of a comparison with another film if one was made."""
    pictures = film.traces.video.pictures
    small = max(next(iter(pictures.stills.values())).shape[:2]) < _SMALL
    verdicts = (*film.verdicts, *(_compared(comparison) if comparison is not None else ()))
    missing = "".join(f"<li>{escape(line)}</li>" for line in film.missing)
    return _PAGE.substitute(
        title=escape(film.subject.title),
        about=escape(_about(film)),
        grade=film.grade,
        summary=_SUMMARY[film.grade],
        scaling="pixelated" if small else "auto",
        cards="".join(_card(verdict) for verdict in verdicts),
        missing=f'<ul class="missing">{missing}</ul>' if missing else "",
        sections="".join(_sections(film)),
    )


def _about(film: Inspection) -> str:
    container, chunks = film.container, len(film.subject.chunk_borders) + 1
    sound = f"{container.samples} samples at {container.sample_rate} Hz" if container.samples else "silent"
    parts = [
        _clock(container.seconds),
        f"{container.frames} frames at {container.fps:g} fps",
        sound,
        *([f"{chunks} chunks"] if chunks > 1 else []),
        film.subject.url,
    ]
    return " · ".join(parts)


def _card(verdict: Verdict) -> str:
    return (
        f'<div class="card {verdict.grade}"><h3>{escape(verdict.title)}</h3><b>{escape(verdict.shown)}</b>'
        f"<i>{escape(verdict.limit)}</i><p>{escape(verdict.says)}</p></div>"
    )


def _compared(comparison: Comparison) -> tuple[Verdict, ...]:
    psnr = unjudged("psnr_db", "PSNR", comparison.psnr_db, "{:.1f} dB", "To the other film, all frames; - if equal.")
    likeness = unjudged("ssim", "SSIM", comparison.ssim, "{:.4f}", "Mean over frames, luma; 1 if equal.")
    equal = comparison.equal_frames / max(1, comparison.frames)
    return psnr, likeness, unjudged("equal", "Equal frames", equal, "{:.1%}", "Bit for bit.")


def _sections(film: Inspection) -> Iterable[str]:
    yield _section("Frames", "Evenly spaced over the film.", _strip(film))
    yield _section(
        "Change from frame to frame",
        "Dots are chunk borders: one that stands out is a visible seam. Red lines are cuts, dashed ones new prompts.",
        drawn(partial(draw_changes, film), 2.6),
    )
    yield _section(
        "Drift",
        "Per second, relative to the first quarter of each scene. A curve that leaves the band drifts.",
        drawn(partial(draw_drift, film), 3.9),
    )
    if film.traces.audio is not None:
        yield _section(
            "Picture and sound",
            "The first seconds: sound onsets above motion events, and the matched pairs.",
            drawn(partial(draw_sound, film), 3.2),
        )
        if film.traces.sync is not None and film.traces.sync.pairs:
            text = "Delay of the sound in every pair; the line is the median."
            yield _section("Offsets", text, drawn(partial(draw_offsets, film), 2.6))
        yield _section("Spectrum", "The whole film.", drawn(partial(draw_spectrum, film), 2.6))
    if film.scenes:
        yield _section("Scenes", "What each scene shows; green matches the prompt.", _scenes(film.scenes))


def _section(title: str, text: str, body: str) -> str:
    return f'<h2>{escape(title)}</h2><p>{escape(text)}</p><div class="panel">{body}</div>'


def _strip(film: Inspection) -> str:
    pictures = film.traces.video.pictures
    figures = []
    for number, frame in pictures.stills.items():
        source = f"data:image/png;base64,{b64encode(png_of(frame)).decode()}"
        when = _clock(float(pictures.times_s[number]))
        figures.append(f'<figure><img src="{source}" alt="frame {number}"><figcaption>{when}</figcaption></figure>')
    return f'<div class="strip">{"".join(figures)}</div>'


def _scenes(scenes: tuple[SceneReading, ...]) -> str:
    asked = ("colour", "shape", "background", "motion")
    names = ("scene", "from", "prompt", *asked, "px/s", "jumps", "bounces", "sounds", "F1")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(f"<tr>{''.join(_cells(scene))}</tr>" for scene in scenes[:_MOST_SCENES])
    return f"<table><tr>{head}</tr>{rows}</table>"


def _cells(scene: SceneReading) -> Iterable[str]:
    yield f'<td class="dim">{scene.scene}</td><td class="dim">{_clock(scene.start_s)}</td>'
    yield f"<td>{escape(scene.prompt or '-')}</td>"
    for name in ("colour", "shape", "background", "motion"):
        right = None if scene.accuracy is None else getattr(scene.accuracy, name)
        tone = "dim" if right is None else "right" if right > 0.5 else "wrong"
        share = "" if right is None or name == "motion" or right in (0, 1) else f" {right:.0%}"
        yield f'<td class="{tone}">{escape(getattr(scene, name) or "nothing")}{share}</td>'
    yield f"<td>{'-' if scene.speed_px_s is None else f'{scene.speed_px_s:.0f}'}</td><td>{scene.teleports}</td>"
    yield f"<td>{scene.bounces}</td><td>{scene.onsets}</td><td>{'-' if scene.f1 is None else f'{scene.f1:.2f}'}</td>"


def _clock(seconds: float) -> str:
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"
