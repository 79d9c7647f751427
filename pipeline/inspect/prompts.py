"""What was asked for against what is seen, scene by scene, in films of sounding shapes."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from longtake.pipeline.inspect.motion import Track
from longtake.pipeline.inspect.shapes import SHAPES, Floats, ShapeTrack, Sightings, describe
from longtake.pipeline.inspect.subject import FilmScene
from longtake.pipeline.inspect.sync import TOLERANCE_S, match, merged
from longtake.pipeline.training.world import BACKGROUNDS, COLOURS, Caption

SETTLE_S = 1.0
"""How long a scene that goes on from another may take to become what it should be."""
CORNER_S = 0.03
"""Hits nearer than this are one to the eye and to the ear."""
_EDGE_FRAMES = 2.5


@dataclass(frozen=True)
class PromptAccuracy:
    """How much of what was asked for is seen, 0..1.

    Args:
        colour, shape, background: share of frames that show it.
        motion: share of scenes that move so.
        whole: share of scenes with all of it, most of the time.
    """

    colour: float
    shape: float
    background: float
    motion: float
    whole: float


@dataclass(frozen=True)
class SceneReading:
    """One scene as it was read.

    Args:
        prompt: what was asked for; None where nobody knows.
        colour, shape, background, motion: what is seen, None where nothing is.
        accuracy: of what was asked for; None without a prompt of the grammar.
        speed_px_s: None where it was not seen for long enough.
        seen: share of its frames that show one shape on a plain background.
        teleports: jumps of more than 8 pixels.
        bounces: hits of walls, away from cuts; a corner is one.
        onsets: sounds, away from cuts.
        f1: of bounces and onsets; None where the prompt asks for silence.
    """

    scene: int
    start_s: float
    stop_s: float
    prompt: str | None
    colour: str | None
    shape: str | None
    background: str | None
    motion: str | None
    accuracy: PromptAccuracy | None
    speed_px_s: float | None
    seen: float
    teleports: int
    bounces: int
    onsets: int
    f1: float | None


def read_scenes(
    sightings: Sightings, track: Track, scenes: Sequence[FilmScene], onsets_s: Floats, fps: float
) -> tuple[SceneReading, ...]:
    """Read every scene of a film from what its frames show and when it sounds."""
    heard = away_from_ends(onsets_s, scenes, fps)
    bounces = away_from_ends(merged(track.hits_s, CORNER_S), scenes, fps)
    readings = []
    for number, scene in enumerate(scenes):
        told = _settled(scene, sightings, track, fps)
        readings.append(_read(number, scene, told, _within(bounces, scene, fps), _within(heard, scene, fps), fps))
    return tuple(readings)


def prompt_accuracy(readings: Sequence[SceneReading]) -> PromptAccuracy | None:
    """The mean over all scenes; None where no prompt is of the grammar."""
    parts = [astuple(reading.accuracy) for reading in readings if reading.accuracy is not None]
    return PromptAccuracy(*np.mean(parts, axis=0).tolist()) if parts else None


def visible_bounces(track: Track, scenes: Sequence[FilmScene], fps: float) -> Floats:
    """Bounces that ought to be heard: a corner counts once, and scenes whose prompt asks for silence do not count."""
    hits = merged(track.hits_s, CORNER_S)
    quiet = [scene.frames for scene in scenes if not _sounds(scene)]
    for frames in quiet:
        hits = hits[(hits < frames.start / fps) | (hits >= frames.stop / fps)]
    return hits


def away_from_ends(times_s: Floats, scenes: Sequence[FilmScene], fps: float) -> Floats:
    """Times that are not so near the film's ends or a cut that a turn there cannot be seen."""
    stop = scenes[-1].frames.stop
    ends = np.array([0, stop, *(scene.frames.start for scene in scenes if scene.cut)]) / fps
    away_s = np.abs(times_s[:, None] - ends).min(axis=1)
    return np.asarray(times_s[away_s > _EDGE_FRAMES / fps])


def _within(times_s: Floats, scene: FilmScene, fps: float) -> Floats:
    return np.asarray(times_s[(times_s >= scene.frames.start / fps) & (times_s < scene.frames.stop / fps)])


def _settled(scene: FilmScene, sightings: Sightings, track: Track, fps: float) -> ShapeTrack:
    """What a scene shows once it has become what it should be."""
    settle = 0 if scene.cut else min(round(SETTLE_S * fps), len(scene.frames) // 2)
    return describe(sightings, track, range(scene.frames.start + settle, scene.frames.stop), fps)


def _read(
    number: int, scene: FilmScene, told: ShapeTrack, bounces_s: Floats, onsets_s: Floats, fps: float
) -> SceneReading:
    caption = _caption(scene)
    return SceneReading(
        scene=number,
        start_s=scene.frames.start / fps,
        stop_s=scene.frames.stop / fps,
        prompt=scene.prompt,
        colour=told.colour,
        shape=told.shape,
        background=told.background,
        motion=told.motion,
        accuracy=None if caption is None else _accuracy(told, caption),
        speed_px_s=told.speed_px_s,
        seen=told.seen,
        teleports=len(told.teleports),
        bounces=len(bounces_s),
        onsets=len(onsets_s),
        f1=match(bounces_s, onsets_s, TOLERANCE_S).f1 if _sounds(scene) else None,
    )


def _accuracy(told: ShapeTrack, caption: Caption) -> PromptAccuracy:
    part = told.sightings
    colour = float(np.mean(part.colours == list(COLOURS).index(caption.colour)))
    shape = float(np.mean(part.shapes == SHAPES.index(caption.shape)))
    background = float(np.mean(part.backgrounds == list(BACKGROUNDS).index(caption.background)))
    motion = float(told.motion == caption.motion.removesuffix(" silently"))
    return PromptAccuracy(colour, shape, background, motion, float(min(colour, shape, background, motion) > 0.5))


def _caption(scene: FilmScene) -> Caption | None:
    return None if scene.prompt is None else Caption.parse(scene.prompt)


def _sounds(scene: FilmScene) -> bool:
    caption = _caption(scene)
    return caption is None or caption.sounds
