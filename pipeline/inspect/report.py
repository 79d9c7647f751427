"""`inspect_film` runs all measures on a film and returns one typed result."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.container import check_container
from longtake.pipeline.inspect.drift import Drift, measure_drift
from longtake.pipeline.inspect.events import motion_events
from longtake.pipeline.inspect.faults import Faults, find_faults
from longtake.pipeline.inspect.figures import sound_figures, sync_figures
from longtake.pipeline.inspect.footage import AudioMeasures, VideoMeasures, measure_audio, measure_video
from longtake.pipeline.inspect.judge import Measures, judge
from longtake.pipeline.inspect.motion import Track, follow
from longtake.pipeline.inspect.prompts import (
    SceneReading,
    away_from_ends,
    prompt_accuracy,
    read_scenes,
    visible_bounces,
)
from longtake.pipeline.inspect.seams import measure_seams
from longtake.pipeline.inspect.stutter import measure_starts, measure_stutter
from longtake.pipeline.inspect.subject import Subject
from longtake.pipeline.inspect.sync import TOLERANCE_S, Sync, match
from longtake.pipeline.inspect.verdicts import Grade, Verdict, worst
from longtake.pipeline.training.world import Caption

Array = NDArray[np.float64]

_WORLD_SEEN = 0.8


@dataclass(frozen=True)
class Traces:
    """The series behind the figures, for charts."""

    video: VideoMeasures
    audio: AudioMeasures | None
    track: Track | None
    events_s: Array
    sync: Sync | None


@dataclass(frozen=True)
class Inspection(Measures):
    """The result of inspecting a film.

    Args:
        verdicts: the headline figures, each judged.
        missing: for every figure that could not be measured, a sentence that states what it needs.
    """

    subject: Subject
    verdicts: tuple[Verdict, ...]
    missing: tuple[str, ...]
    traces: Traces

    @property
    def grade(self) -> Grade:
        """The worst of all verdicts."""
        return worst(self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the traces."""
        names = (field.name for field in fields(Measures) if field.name != "scenes")
        parts = {name: None if (part := getattr(self, name)) is None else asdict(part) for name in names}
        return {
            "title": self.subject.title,
            "url": self.subject.url,
            "grade": self.grade,
            "figures": {verdict.key: verdict.value for verdict in self.verdicts},
            "grades": {verdict.key: verdict.grade for verdict in self.verdicts},
            "limits": {verdict.key: verdict.limit for verdict in self.verdicts if verdict.limit},
            "lacks": list(self.missing),
            **parts,
            "shots": [
                {"start": scene.frames.start, "stop": scene.frames.stop, "cut": scene.cut}
                for scene in self.subject.scenes
            ],
            "scenes": [asdict(scene) for scene in self.scenes],
        }


def inspect_film(subject: Subject, measured: Callable[[int], object] = lambda _: None) -> Inspection:
    """Measure a film in one pass. Raises MediaError if it cannot be decoded.

    Args:
        measured: is called with the number of frames that are measured, every few frames.
    """
    video = measure_video(subject, measured)
    pictures = video.pictures
    subject = subject.shown(pictures.times_s, video.cuts)
    audio, fps = measure_audio(subject), float(subject.fps)
    sound_format = (audio.samples, audio.channels, audio.rate) if audio is not None else (0, 0, 0)
    container = check_container(subject, pictures.times_s, *sound_format)
    steps_db = None if audio is None else audio.loudness.steps_db
    track = _track(subject, video)
    middles = None if track is None or video.sightings is None else video.sightings.middles
    if track is not None:
        track = replace(track, hits_s=_shown_at(track.hits_s, pictures.times_s, fps))
    onsets = audio.onsets_s if audio is not None else np.empty(0)
    readings: tuple[SceneReading, ...] = ()
    if track is not None and video.sightings is not None:
        readings = read_scenes(video.sightings, track, subject.scenes, onsets, fps)
    events = motion_events(pictures, subject.changes) if track is None else visible_bounces(track, subject.scenes, fps)
    events, onsets = (away_from_ends(times, subject.scenes, fps) for times in (events, onsets))
    sync = None if audio is None else match(events, onsets, TOLERANCE_S, container.seconds)
    borders = subject.chunk_borders, subject.latent_borders
    measures = Measures(
        container=container,
        faults=_faults(subject, video, steps_db),
        seams=measure_seams(pictures, *borders, subject.changes),
        stutter=measure_stutter(pictures, *borders, subject.changes, middles, track),
        starts=None if middles is None else measure_starts(middles, subject.chunk_borders, subject.cuts),
        clicks=None if audio is None else audio.clicks,
        drift=measure_drift(pictures, [scene.frames for scene in subject.scenes], fps, steps_db),
        sync=None if sync is None else sync_figures(sync, events, onsets, container.seconds, track is not None),
        sound=None if audio is None else sound_figures(audio),
        accuracy=prompt_accuracy(readings),
        scenes=readings,
    )
    return Inspection(
        **vars(measures),
        subject=subject,
        verdicts=judge(measures),
        missing=_missing(subject, audio, measures.drift, track),
        traces=Traces(video, audio, track, events, sync),
    )


def _faults(subject: Subject, video: VideoMeasures, steps_db: NDArray[np.float32] | None) -> Faults:
    captions = [(scene, Caption.parse(scene.prompt)) for scene in subject.scenes if scene.prompt is not None]
    resting = [scene.frames for scene, caption in captions if caption is not None and caption.motion == "rests"]
    quiet = any(caption is not None and not caption.sounds for _, caption in captions)
    return find_faults(video.pictures, float(subject.fps), steps_db, resting=resting, quiet=quiet)


def _track(subject: Subject, video: VideoMeasures) -> Track | None:
    """The shape's track if the prompts, or without prompts the pictures, show a film of sounding shapes; else None."""
    if video.sightings is None:
        return None
    prompts = [scene.prompt for scene in subject.scenes if scene.prompt is not None]
    if prompts and not all(Caption.parse(prompt) for prompt in prompts):
        return None
    if not prompts and video.sightings.seen < _WORLD_SEEN:
        return None
    return follow(video.sightings.middles, float(subject.fps), subject.cuts)


def _shown_at(times_s: Array, shown_s: Array, fps: float) -> Array:
    """Convert frame-counted times to presentation times, so that missing frames do not shift them."""
    frames = times_s * fps - 0.5
    return np.asarray(np.interp(frames, np.arange(len(shown_s)), shown_s) + 0.5 / fps)


def _missing(
    subject: Subject, audio: AudioMeasures | None, drift: Drift | None, track: Track | None
) -> tuple[str, ...]:
    missing = []
    if not subject.chunk_borders:
        missing.append("Seams and clicks need chunk borders: inspect the take's folder, or pass --chunk 1s.")
    elif not subject.latent_borders:
        missing.append("Seams relative to other latent borders need the take's folder, rendered by this version.")
    if all(scene.prompt is None for scene in subject.scenes):
        missing.append("Scenes and prompts need the take's folder.")
    if audio is None:
        missing.append("Sync, loudness and clicks need sound; the film is silent.")
    elif track is None:
        missing.append("Motion is timed only to a frame: sync to a millisecond needs a film of sounding shapes.")
    if drift is None:
        missing.append("Drift needs a scene of at least 4 s.")
    return tuple(missing)
