"""`inspect_film` runs all measures on a film and returns one typed result."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.clicks import Clicks
from longtake.pipeline.inspect.container import Container, check_container
from longtake.pipeline.inspect.drift import Drift, measure_drift
from longtake.pipeline.inspect.events import motion_events
from longtake.pipeline.inspect.figures import SoundFigures, SyncFigures, sound_figures, sync_figures
from longtake.pipeline.inspect.footage import AudioMeasures, VideoMeasures, measure_audio, measure_video
from longtake.pipeline.inspect.judge import judge
from longtake.pipeline.inspect.motion import Track, follow
from longtake.pipeline.inspect.prompts import (
    PromptAccuracy,
    SceneReading,
    away_from_ends,
    prompt_accuracy,
    read_scenes,
    visible_bounces,
)
from longtake.pipeline.inspect.seams import Seams, measure_seams
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
class Inspection:
    """The result of inspecting a film.

    Args:
        verdicts: the headline figures, each judged.
        missing: for every figure that could not be measured, a sentence that states what it needs.
        scenes: what each scene shows, for films of sounding shapes; else empty.
    """

    subject: Subject
    verdicts: tuple[Verdict, ...]
    missing: tuple[str, ...]
    container: Container
    seams: Seams | None
    clicks: Clicks | None
    drift: Drift | None
    sync: SyncFigures | None
    sound: SoundFigures | None
    scenes: tuple[SceneReading, ...]
    accuracy: PromptAccuracy | None
    traces: Traces

    @property
    def grade(self) -> Grade:
        """The worst of all verdicts."""
        return worst(self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the traces."""
        names = ("container", "seams", "clicks", "drift", "sync", "sound", "accuracy")
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
            "scenes": [asdict(scene) for scene in self.scenes],
        }


def inspect_film(subject: Subject) -> Inspection:
    """Measure a film in one pass. Raises MediaError if it cannot be decoded."""
    video, audio = measure_video(subject), measure_audio(subject)
    pictures, fps = video.pictures, float(subject.fps)
    sound_format = (audio.samples, audio.channels, audio.rate) if audio is not None else (0, 0, 0)
    container = check_container(subject, pictures.times_s, *sound_format)
    seams = measure_seams(pictures, subject.chunk_borders, subject.latent_borders, subject.changes)
    clicks = None if audio is None else audio.clicks
    steps_db = None if audio is None else audio.loudness.steps_db
    drift = measure_drift(pictures, [scene.frames for scene in subject.scenes], fps, steps_db)
    track = _track(subject, video)
    if track is not None:
        track = replace(track, hits_s=_shown_at(track.hits_s, pictures.times_s, fps))
    onsets = audio.onsets_s if audio is not None else np.empty(0)
    readings: tuple[SceneReading, ...] = ()
    if track is not None and video.sightings is not None:
        readings = read_scenes(video.sightings, track, subject.scenes, onsets, fps)
    events = motion_events(pictures, subject.changes) if track is None else visible_bounces(track, subject.scenes, fps)
    events, onsets = (away_from_ends(times, subject.scenes, fps) for times in (events, onsets))
    sync = None if audio is None else match(events, onsets, TOLERANCE_S, container.seconds)
    figures = None if sync is None else sync_figures(sync, events, onsets, container.seconds, track is not None)
    sound = None if audio is None else sound_figures(audio)
    accuracy = prompt_accuracy(readings)
    return Inspection(
        subject=subject,
        verdicts=judge(container, seams, clicks, drift, figures, sound, accuracy, readings),
        missing=_missing(subject, audio, drift, track),
        container=container,
        seams=seams,
        clicks=clicks,
        drift=drift,
        sync=figures,
        sound=sound,
        scenes=readings,
        accuracy=accuracy,
        traces=Traces(video, audio, track, events, sync),
    )


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
