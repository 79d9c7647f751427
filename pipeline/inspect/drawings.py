"""SVG charts of the inspection report. Their colours are variables of the page, which differ by light and dark."""

from collections.abc import Callable
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from longtake.pipeline.inspect.drift import MEASURES, per_second
from longtake.pipeline.inspect.loudness import STEP_S
from longtake.pipeline.inspect.report import Inspection
from longtake.pipeline.inspect.spectrum import DETAIL_S

GROUND, LINE, TEXT, DIM, FAINT = "#14161b", "#262a33", "#d9dce3", "#8d94a5", "#5c6373"
GOLD, GREEN, RED, BLUE, VIOLET, TEAL = "#e9b872", "#86c59a", "#ef8a7a", "#7f93bd", "#b794cf", "#6db8cc"
_VARIABLES = {
    GROUND: "panel",
    LINE: "line",
    TEXT: "text",
    DIM: "dim",
    FAINT: "faint",
    GOLD: "gold",
    GREEN: "green",
    RED: "red",
    BLUE: "blue",
    VIOLET: "violet",
    TEAL: "teal",
}
"""The variable of `pages/base.css` that takes the place of each colour."""
_STYLE: dict[Any, Any] = {
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "axes.edgecolor": LINE,
    "axes.labelcolor": DIM,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": TEXT,
    "text.color": TEXT,
    "xtick.color": DIM,
    "ytick.color": DIM,
    "grid.color": LINE,
    "legend.frameon": False,
    "legend.labelcolor": DIM,
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "longtake",
    "path.simplify_threshold": 0.5,
}
_WIDE = 11.2  # inches
_MOST_POINTS = 2400
_MOST_BORDERS = 240

Array = NDArray[np.float64]


def drawn(draw: Callable[[Figure], None], height: float, width: float = _WIDE) -> str:
    """The SVG element that `draw` produces on a figure; sizes in inches."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        svg = StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    text = svg.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def draw_changes(film: Inspection, figure: Figure) -> None:
    """Change from frame to frame, with chunk borders; frames that start a scene are left out, as outliers."""
    pictures, subject = film.traces.video.pictures, film.subject
    axes = _timeline(figure.add_subplot(), film)
    shown = pictures.change.copy()
    shown[[0, *(change for change in subject.changes if change < len(shown))]] = np.nan
    seconds, low, high = _envelope(pictures.times_s, shown)
    axes.fill_between(seconds, low, high, color=BLUE, linewidth=1.2, alpha=0.8, label="inside chunks")
    borders = np.setdiff1d(np.array(subject.chunk_borders, dtype=int), subject.changes)
    borders = borders[borders < len(pictures)]
    at = pictures.change[borders]
    if len(at):
        axes.plot(pictures.times_s[borders], at, ".", color=GOLD, markersize=4, label="at chunk borders")
    if film.seams is not None and film.seams.worst_z > 8:
        worst = film.seams.worst_frame
        axes.plot(pictures.times_s[worst], pictures.change[worst], "o", color=RED, fillstyle="none", label="worst seam")
    axes.set_ylabel("mean |difference|")
    calm = float(np.nanquantile(shown, 0.999)) if np.isfinite(shown).any() else 1.0
    axes.set_ylim(0, max(0.1, 1.25 * max(calm, float(at.max(initial=0)))))
    _legend(axes)


def draw_drift(film: Inspection, figure: Figure) -> None:
    """Contrast, saturation and sharpness per second, relative to the start of each scene, above the loudness if any."""
    pictures, fps = film.traces.video.pictures, float(film.subject.fps)
    audio = film.traces.audio
    if audio is None:
        above = _timeline(figure.add_subplot(), film)
        above.set_xlabel("seconds")
    else:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        _timeline(above, film)
        steps = audio.loudness.steps_db.astype(np.float64)
        steps_s, low, high = _envelope(STEP_S * np.arange(len(steps), dtype=np.float64), np.maximum(steps, -70))
        _timeline(below, film).fill_between(steps_s, low, high, color=BLUE, alpha=0.6, linewidth=0.8)
        below.set_ylabel("LUFS, 400 ms")
        below.set_xlabel("seconds")
        below.set_ylim(-72, 0)
    for name, colour in zip(MEASURES, (GOLD, TEAL, VIOLET), strict=True):
        for number, scene in enumerate(film.subject.scenes):
            curve = per_second(getattr(pictures, name)[scene.frames.start : scene.frames.stop], fps)
            base = max(float(np.median(curve[: max(1, len(curve) // 4)])), 1e-3)
            times = scene.frames.start / fps + np.arange(len(curve)) + 0.5
            axes_label = name if not number else None
            above.plot(times, 100 * (curve / base - 1), color=colour, linewidth=1.3, label=axes_label)
    above.axhspan(-10, 10, color=GREEN, alpha=0.05, linewidth=0)
    above.set_ylim(*(_fitted(above, 15.0)))
    above.set_ylabel("% of scene's start")
    _legend(above)


def draw_sound(film: Inspection, figure: Figure) -> None:
    """The first seconds: the waveform with its onsets, above motion events and the matched pairs."""
    audio, traces = film.traces.audio, film.traces
    if audio is None:
        return
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    detail, rate = audio.spectrum.detail.astype(np.float64), audio.rate
    times, low, high = _envelope(np.arange(len(detail)) / rate, detail)
    above.fill_between(times, low, high, color=BLUE, alpha=0.8, linewidth=0.6)
    stop = min(DETAIL_S, film.container.seconds)
    above.set_xlim(0, stop)
    loudest = max(0.05, 1.1 * float(np.abs(detail).max(initial=0)))
    above.set_ylim(-loudest, loudest)
    above.set_ylabel("sound")
    onsets = audio.onsets_s[audio.onsets_s < stop]
    events = traces.events_s[traces.events_s < stop]
    above.vlines(onsets, -loudest, loudest, color=GOLD, linewidth=0.9, alpha=0.8)
    below.set_ylim(-0.15, 1.15)
    below.set_yticks([1, 0], ["heard", "seen"])
    below.plot(onsets, np.ones(len(onsets)), "|", color=GOLD, markersize=12, markeredgewidth=1.4)
    below.plot(events, np.zeros(len(events)), "|", color=TEAL, markersize=12, markeredgewidth=1.4)
    pairs = [] if traces.sync is None else [pair for pair in traces.sync.pairs if max(pair) < stop]
    for event, onset in pairs:
        below.plot([event, onset], [0.12, 0.88], color=GREEN, linewidth=1)
    for frames in film.subject.chunk_borders:
        if frames / film.subject.fps < stop:
            below.axvline(float(frames / film.subject.fps), color=LINE, linewidth=0.8, zorder=0)
    below.set_xlabel("seconds")


def draw_spectrum(film: Inspection, figure: Figure) -> None:
    """The whole film's spectrogram."""
    audio = film.traces.audio
    if audio is None:
        return
    axes, spectrum = figure.add_subplot(), audio.spectrum
    top = float(spectrum.power_db.max())
    extent = (0, spectrum.seconds, 0, len(spectrum.bands_hz))
    axes.imshow(spectrum.power_db, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=top - 70, vmax=top)
    marks = np.array([hz for hz in (100, 300, 1000, 3000, 10_000) if hz < spectrum.bands_hz[-1]])
    places = np.interp(np.log(marks), np.log(spectrum.bands_hz), np.arange(len(spectrum.bands_hz))) + 0.5
    axes.set_yticks(places, [f"{hz:g}" if hz < 1000 else f"{hz / 1000:g}k" for hz in marks.tolist()])
    axes.set_ylabel("Hz")
    axes.set_xlabel("seconds")


def draw_offsets(film: Inspection, figure: Figure) -> None:
    """Offsets between motion events and onsets: a histogram, and their course over the film."""
    sync = film.traces.sync
    if sync is None or not sync.pairs:
        return
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    offsets = 1000 * np.array([onset - event for event, onset in sync.pairs])
    reach = 1000 * sync.tolerance_s
    left.hist(offsets, bins=np.linspace(-reach, reach, 51), color=TEAL, alpha=0.85)
    for axes, line in ((left, left.axvline), (right, right.axhline)):
        line(0, color=FAINT, linewidth=0.8)
        line(float(np.median(offsets)), color=GOLD, linewidth=1.2)
        axes.grid(visible=True, linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)
    left.set_xlabel("sound early   ms   sound late")
    left.set_ylabel("pairs")
    right.plot([event for event, _ in sync.pairs], offsets, ".", color=TEAL, markersize=4, alpha=0.8)
    right.set_ylim(-reach, reach)
    right.set_xlim(0, film.container.seconds)
    right.set_xlabel("seconds")
    right.set_ylabel("ms late")


def png_of(frame: NDArray[np.uint8]) -> bytes:
    """A picture [h w 3] encoded as PNG."""
    data = BytesIO()
    imsave(data, frame, format="png")
    return data.getvalue()


def _timeline(axes: Axes, film: Inspection) -> Axes:
    """Axes over the film's seconds, with chunk borders and cuts in the background."""
    fps, subject = float(film.subject.fps), film.subject
    axes.set_xlim(0, film.container.seconds)
    if len(subject.chunk_borders) <= _MOST_BORDERS:
        for border in subject.chunk_borders:
            axes.axvline(border / fps, color=LINE, linewidth=0.7, zorder=0)
    for scene in subject.scenes[1:]:
        style = "-" if scene.cut else (0, (3, 3))
        axes.axvline(scene.frames.start / fps, color=RED if scene.cut else DIM, linewidth=0.9, linestyle=style)
    return axes


def _envelope(times: Array, values: Array) -> tuple[Array, Array, Array]:
    """Minimum and maximum of groups of neighbours, at most `_MOST_POINTS` groups."""
    if len(values) <= _MOST_POINTS:
        return times, values, values
    groups = np.linspace(0, len(values), _MOST_POINTS + 1).astype(int)[:-1]
    return times[groups], np.fmin.reduceat(values, groups), np.fmax.reduceat(values, groups)


def _fitted(axes: Axes, least: float) -> tuple[float, float]:
    low, high = axes.get_ylim()
    return min(low, -least), max(high, least)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper right", ncols=4, fontsize=8)
