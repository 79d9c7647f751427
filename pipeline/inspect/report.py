"""Everything that can be said about a film, gathered into one typed result."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.inspect.clicks import Clicks
from longtake.pipeline.inspect.container import Container, check_container
from longtake.pipeline.inspect.drift import Drift, measure_drift
from longtake.pipeline.inspect.events import motion_events
from longtake.pipeline.inspect.figures import SoundFigures, SyncFigures, sound_figures, sync_figures
from longtake.pipeline.inspect.footage import Hearing, Sight, hear, see
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
    """What the figures were made of, to draw."""

    sight: Sight
    hearing: Hearing | None
    track: Track | None
    events_s: Array
    sync: Sync | None


@dataclass(frozen=True)
class Inspection:
    """A film, measured.

    Args:
        verdicts: the figures that matter, each judged.
        lacks: what could not be measured, and what it would need.
        scenes: what is seen in each, in films of sounding shapes.
    """

    subject: Subject
    verdicts: tuple[Verdict, ...]
    lacks: tuple[str, ...]
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
        """Plain values for JSON; without the traces."""
        names = ("container", "seams", "clicks", "drift", "sync", "sound", "accuracy")
        parts = {name: None if (part := getattr(self, name)) is None else asdict(part) for name in names}
        return {
            "title": self.subject.title,
            "url": self.subject.url,
            "grade": self.grade,
            "figures": {verdict.key: verdict.value for verdict in self.verdicts},
            "grades": {verdict.key: verdict.grade for verdict in self.verdicts},
            "limits": {verdict.key: verdict.limit for verdict in self.verdicts if verdict.limit},
            "lacks": list(self.lacks),
            **parts,
            "scenes": [asdict(scene) for scene in self.scenes],
        }


def inspect_film(subject: Subject) -> Inspection:
    """Go through a film once and measure it. Raises MediaError where it cannot be decoded."""
    sight, hearing = see(subject), hear(subject)
    pictures, fps = sight.pictures, float(subject.fps)
    heard = (hearing.samples, hearing.channels, hearing.rate) if hearing is not None else (0, 0, 0)
    container = check_container(subject, pictures.times_s, *heard)
    seams = measure_seams(pictures, subject.chunk_borders, subject.latent_borders, subject.changes)
    clicks = None if hearing is None else hearing.clicks
    steps_db = None if hearing is None else hearing.loudness.steps_db
    drift = measure_drift(pictures, [scene.frames for scene in subject.scenes], fps, steps_db)
    track = _track(subject, sight)
    if track is not None:
        track = replace(track, hits_s=_shown_at(track.hits_s, pictures.times_s, fps))
    onsets = hearing.onsets_s if hearing is not None else np.empty(0)
    readings: tuple[SceneReading, ...] = ()
    if track is not None and sight.sightings is not None:
        readings = read_scenes(sight.sightings, track, subject.scenes, onsets, fps)
    events = motion_events(pictures, subject.changes) if track is None else visible_bounces(track, subject.scenes, fps)
    events, onsets = (away_from_ends(times, subject.scenes, fps) for times in (events, onsets))
    sync = None if hearing is None else match(events, onsets, TOLERANCE_S, container.seconds)
    figures = None if sync is None else sync_figures(sync, events, onsets, container.seconds, track is not None)
    sound = None if hearing is None else sound_figures(hearing)
    accuracy = prompt_accuracy(readings)
    return Inspection(
        subject=subject,
        verdicts=judge(container, seams, clicks, drift, figures, sound, accuracy, readings),
        lacks=_lacks(subject, hearing, drift, track),
        container=container,
        seams=seams,
        clicks=clicks,
        drift=drift,
        sync=figures,
        sound=sound,
        scenes=readings,
        accuracy=accuracy,
        traces=Traces(sight, hearing, track, events, sync),
    )


def _track(subject: Subject, sight: Sight) -> Track | None:
    """The shape's track, if the film is one of sounding shapes: by its prompts, or else by its looks."""
    if sight.sightings is None:
        return None
    prompts = [scene.prompt for scene in subject.scenes if scene.prompt is not None]
    if prompts and not all(Caption.parse(prompt) for prompt in prompts):
        return None
    if not prompts and sight.sightings.seen < _WORLD_SEEN:
        return None
    return follow(sight.sightings.middles, float(subject.fps), subject.cuts)


def _shown_at(times_s: Array, shown_s: Array, fps: float) -> Array:
    """Times that count frames, where the frames were shown: a frame that is missing takes its time all the same."""
    frames = times_s * fps - 0.5
    return np.asarray(np.interp(frames, np.arange(len(shown_s)), shown_s) + 0.5 / fps)


def _lacks(subject: Subject, hearing: Hearing | None, drift: Drift | None, track: Track | None) -> tuple[str, ...]:
    lacks = []
    if not subject.chunk_borders:
        lacks.append("Seams and clicks need chunk borders: inspect the take's folder, or say --chunk 1s.")
    elif not subject.latent_borders:
        lacks.append("Seams against other latents' borders need the take's folder, rendered by this version.")
    if all(scene.prompt is None for scene in subject.scenes):
        lacks.append("Scenes and prompts need the take's folder.")
    if hearing is None:
        lacks.append("Sync, loudness and clicks need sound; the film is silent.")
    elif track is None:
        lacks.append("Motion is timed to a frame only: sync to a millisecond needs a film of sounding shapes.")
    if drift is None:
        lacks.append("Drift needs a scene of at least 4 s.")
    return tuple(lacks)
