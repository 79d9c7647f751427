"""Limits of the headline figures: which value is good, worth a look, or bad.

Seams: clean footage gives 1.00, a jump by half a frame's motion 1.5. Sync: EBU R37 allows sound 40 ms early and 60 ms
late. Short films scatter more, so slopes are judged relative to their standard error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from longtake.pipeline.inspect.clicks import Clicks
from longtake.pipeline.inspect.container import Container
from longtake.pipeline.inspect.drift import Drift
from longtake.pipeline.inspect.faults import Faults
from longtake.pipeline.inspect.figures import SoundFigures, SyncFigures
from longtake.pipeline.inspect.prompts import PromptAccuracy, SceneReading
from longtake.pipeline.inspect.seams import Seams
from longtake.pipeline.inspect.stutter import Starts, Stutter
from longtake.pipeline.inspect.verdicts import Scale, Verdict, unjudged

_COUNTS = Scale("miscounts", "Counts off", 0, 0, "Frames and samples missing or in excess.", "{:.0f}")
_GAPS = Scale("gaps", "Gaps", 0, 0, "Frames not followed by the next after one frame's duration.", "{:.0f}")
_STARTS = Scale("start_apart_ms", "Starts", 1, 20, "Start of the sound minus start of the picture.", "{:+.1f} ms", True)

_LATENT_SEAMS = Scale(
    "seam_latent_ratio", "Seams", 1.15, 1.4, "Change at chunk borders relative to other latent borders."
)
_SEAMS = Scale("seam_ratio", "Seams", 1.25, 1.5, "Change at chunk borders relative to inside the chunks.")
_JOLTS = Scale("jolt_ratio", "Jolts at seams", 1.4, 1.8, "Jumps in position or speed at borders relative to inside.")
_WORST_SEAM = Scale("worst_seam", "Worst seam", 1.45, 2.0, "Change at the worst border relative to the local median.")
_CLICKS = Scale(
    "clicks_excess", "Clicks at seams", 0, 0.1, "Share of borders with a click, minus that inside.", "{:.1%}"
)

_STUTTER = Scale(
    "stutter_ratio", "Stutter", 1.15, 1.5, "Motion at latent borders inside chunks relative to inside latents."
)
_STARTS_PX = Scale(
    "start_jump_px", "Jump after a cut", 6, 12, "Largest step of the shape in the first chunk after a cut.", "{:.1f} px"
)
_UNSEEN = Scale(
    "start_unseen", "No shape after a cut", 0.02, 0.1, "Frames of first chunks that show no single shape.", "{:.1%}"
)

_BLACK = Scale("black", "Black", 0.1, 0.5, "Share of the film that is black.", "{:.1%}")
_FROZEN = Scale("frozen", "Frozen", 0.1, 0.5, "Share of the film that stands still for two seconds or more.", "{:.1%}")
_BURNT = Scale("burnt", "Burnt out", 0.25, 0.5, "Share of pixels that are white or fully saturated.", "{:.1%}")
_SILENT = Scale("silent", "Silent", 0.5, 0.98, "Share of the film whose sound is below -70 LUFS.", "{:.1%}")

_SCALES_OF_DRIFT = (
    Scale("drift_contrast", "Contrast drift", 0.1, 0.25, "End of a scene compared with its start.", "{:+.1%}", True),
    Scale(
        "drift_saturation", "Saturation drift", 0.1, 0.25, "End of a scene compared with its start.", "{:+.1%}", True
    ),
    Scale("drift_sharpness", "Sharpness drift", 0.15, 0.35, "End of a scene compared with its start.", "{:+.1%}", True),
    Scale("drift_loudness_db", "Loudness drift", 4, 8, "End of a scene compared with its start.", "{:+.1f} dB", True),
    Scale("motion_left", "Motion left", 0.6, 0.3, "Motion at the end of a scene relative to its start.", least=True),
)
_F1 = Scale("sync_f1", "Sync F1", 0.8, 0.5, "Visible hits matched one to one with sounds within 62.5 ms.", least=True)
_OFFSET = Scale("offset_ms", "Sound offset", 20, 40, "Median; above 0 the sound is late.", "{:+.1f} ms", True)
_SLOPE = "slope_ms_per_min"
_PEAK = Scale("true_peak_db", "True peak", 0, 1, "Above 0 the sound clips, at least between samples.", "{:+.1f} dBTP")
_PROMPT = Scale("prompt_accuracy", "As prompted", 0.95, 0.8, "Scenes that match their prompt.", "{:.0%}", least=True)
_TELEPORTS = Scale("teleports", "Teleports", 0.001, 0.01, "Frames at which the shape jumps by over 8 px.", "{:.2%}")

_LEAST_PAIRS = 8
_MOST_ERROR = 1.5  # ms/min; a film of half a minute has a larger error


@dataclass(frozen=True)
class Measures:
    """All figures of a film. A measure is None if the film lacks what it needs.

    Args:
        scenes: what each scene shows, for films of sounding shapes; else empty.
    """

    container: Container
    faults: Faults
    seams: Seams | None
    stutter: Stutter | None
    starts: Starts | None
    clicks: Clicks | None
    drift: Drift | None
    sync: SyncFigures | None
    sound: SoundFigures | None
    accuracy: PromptAccuracy | None
    scenes: tuple[SceneReading, ...]


def judge(film: Measures) -> tuple[Verdict, ...]:
    """Verdicts on the headline figures, in the order of the report."""
    clicks = film.clicks
    return (
        *_of_container(film.container),
        *_of_faults(film.faults),
        *(_of_seams(film.seams) if film.seams is not None else ()),
        *((_STUTTER.judge(film.stutter.ratio),) if film.stutter is not None else ()),
        *(_of_starts(film.starts) if film.starts is not None else ()),
        *((_CLICKS.judge(clicks.clicks / clicks.count - clicks.clicks_inside),) if clicks is not None else ()),
        *(_of_drift(film.drift) if film.drift is not None else ()),
        *(_of_sync(film.sync) if film.sync is not None else ()),
        *(_of_sound(film.sound) if film.sound is not None else ()),
        *_of_shapes(film.accuracy, film.scenes, film.container.frames),
    )


def _of_container(container: Container) -> tuple[Verdict, ...]:
    counts = (container.missing_frames, container.missing_samples, container.extra_samples)
    miscounts = sum(abs(count) for count in counts if count is not None)
    if container.missing_frames is None:  # the sound of another tool's film may end within a frame
        frame = container.sample_rate / container.fps
        miscounts = 0 if abs(container.extra_samples or 0) < frame else miscounts
    starts = None if container.start_apart_s is None else 1000 * container.start_apart_s
    gaps = _GAPS.judge(container.gaps + (not container.monotone))
    if not container.steady and container.monotone:
        says = f"The frame rate is not steady; its mean is {container.fps:.4g} fps."
        gaps = unjudged(_GAPS.key, _GAPS.title, None, _GAPS.pattern, says)
    return _COUNTS.judge(miscounts), gaps, _STARTS.judge(starts)


def _of_faults(faults: Faults) -> tuple[Verdict, ...]:
    return (
        _BLACK.judge(faults.black),
        *((_FROZEN.judge(faults.frozen),) if faults.frozen is not None else ()),
        _BURNT.judge(faults.burnt),
        *((_SILENT.judge(faults.silent),) if faults.silent is not None else ()),
    )


def _of_starts(starts: Starts) -> tuple[Verdict, ...]:
    return _STARTS_PX.judge(starts.jump_px), _UNSEEN.judge(starts.unseen)


def _of_seams(seams: Seams) -> tuple[Verdict, ...]:
    by_latents = seams.latent_ratio is not None
    return (
        _LATENT_SEAMS.judge(seams.latent_ratio) if by_latents else _SEAMS.judge(seams.ratio),
        *((unjudged("seam_ratio", "Seams, all frames", seams.ratio, "{:.2f}", _SEAMS.says),) if by_latents else ()),
        _JOLTS.judge(seams.jolt_ratio),
        _WORST_SEAM.judge(seams.worst_ratio if seams.worst_z > 8 else min(seams.worst_ratio, 1.0)),
        unjudged("seam_z", "Seam z", seams.z, "{:+.1f}", "Median over borders, in robust deviations."),
    )


def _of_drift(drift: Drift) -> tuple[Verdict, ...]:
    values = (drift.contrast, drift.saturation, drift.sharpness, drift.loudness_db, drift.motion)
    return tuple(scale.judge(value) for scale, value in zip(_SCALES_OF_DRIFT, values, strict=True))


def _of_sync(sync: SyncFigures) -> tuple[Verdict, ...]:
    says = "The same with the sound shifted against the picture."
    chance = unjudged("sync_chance_f1", "By chance", sync.chance_f1, "{:.2f}", says)
    paired = min(sync.num_events, sync.num_onsets) * sync.f1 >= _LEAST_PAIRS
    exact = sync.events == "bounces" and sync.num_events + sync.num_onsets >= _LEAST_PAIRS
    f1 = _F1.judge(sync.f1) if exact else unjudged(_F1.key, _F1.title, sync.f1, "{:.2f}", _F1.says)
    return f1, chance, _OFFSET.judge(sync.offset_ms if paired and exact else None), _slope(sync)


def _slope(sync: SyncFigures) -> Verdict:
    error, title = sync.slope_error_ms_per_min, "Sound drift"
    says = "Growth of the sound's delay per minute; good within 5 plus three standard errors."
    if error is None or sync.events != "bounces" or error > _MOST_ERROR:
        return unjudged(_SLOPE, title, sync.slope_ms_per_min, "{:+.1f} ms/min", says)
    limit = 5.0 + 3 * error
    return Scale(_SLOPE, title, limit, 3 * limit, says, "{:+.1f} ms/min", signed=True).judge(sync.slope_ms_per_min)


def _of_sound(sound: SoundFigures) -> tuple[Verdict, ...]:
    says = "Integrated loudness, ITU-R BS.1770-4."
    loudness = unjudged("loudness_lufs", "Loudness", sound.integrated_lufs, "{:.1f} LUFS", says)
    return loudness, _PEAK.judge(sound.true_peak_db)


def _of_shapes(accuracy: PromptAccuracy | None, scenes: Sequence[SceneReading], frames: int) -> tuple[Verdict, ...]:
    if not scenes:
        return ()
    teleports = _TELEPORTS.judge(sum(scene.teleports for scene in scenes) / max(1, frames))
    return (*((_PROMPT.judge(accuracy.whole),) if accuracy is not None else ()), teleports)
