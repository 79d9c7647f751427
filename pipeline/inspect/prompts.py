"""Prompt accuracy of films of sounding shapes: the prompt of each scene compared with what the scene shows."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from longtake.pipeline.inspect.motion import Track
from longtake.pipeline.inspect.shapes import SHAPES, Floats, ShapeTrack, Sightings, describe
from longtake.pipeline.inspect.subject import FilmScene
from longtake.pipeline.inspect.sync import TOLERANCE_S, match, merged
from longtake.pipeline.training.world import ALL_COLOURS, BACKGROUNDS, Caption

SETTLE_S = 1.0
"""Time that a scene without a cut has to change to its prompt; it is left out of the reading."""
CORNER_S = 0.03
"""Hits closer than this count as one, since they look and sound like one."""
_EDGE_FRAMES = 2.5


@dataclass(frozen=True)
class PromptAccuracy:
    """How much of the prompts the film shows, 0..1.

    Args:
        colour, shape, background: share of frames that match the prompt.
        motion: share of scenes whose motion matches.
        whole: share of scenes in which all four match, each in most frames.
    """

    colour: float
    shape: float
    background: float
    motion: float
    whole: float


@dataclass(frozen=True)
class SceneReading:
    """What one scene shows.

    Args:
        prompt: the scene's prompt; None if unknown.
        colour, shape, background, motion: what was detected; None if nothing was.
        accuracy: agreement with the prompt; None if the prompt does not follow the grammar.
        speed_px_s: median speed; None if the shape was not visible for long enough.
        seen: share of frames that show one shape on a plain background.
        teleports: jumps of more than 8 pixels.
        bounces: hits of walls, not counting those next to cuts; a corner is one.
        onsets: sound onsets, not counting those next to cuts.
        f1: of bounces and onsets; None if the prompt requests silence.
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
    """Describe every scene of a film from its sightings, its track and its sound onsets."""
    onsets_s = away_from_ends(onsets_s, scenes, fps)
    bounces = away_from_ends(merged(track.hits_s, CORNER_S), scenes, fps)
    readings = []
    for number, scene in enumerate(scenes):
        shown = _settled(scene, sightings, track, fps)
        readings.append(_read(number, scene, shown, _within(bounces, scene, fps), _within(onsets_s, scene, fps), fps))
    return tuple(readings)


def prompt_accuracy(readings: Sequence[SceneReading]) -> PromptAccuracy | None:
    """The mean over all scenes; None if no prompt follows the grammar."""
    parts = [astuple(reading.accuracy) for reading in readings if reading.accuracy is not None]
    return PromptAccuracy(*np.mean(parts, axis=0).tolist()) if parts else None


def visible_bounces(track: Track, scenes: Sequence[FilmScene], fps: float) -> Floats:
    """Times of bounces that should have a sound: a corner counts once, silent scenes do not count."""
    hits = merged(track.hits_s, CORNER_S)
    quiet = [scene.frames for scene in scenes if not _sounds(scene)]
    for frames in quiet:
        hits = hits[(hits < frames.start / fps) | (hits >= frames.stop / fps)]
    return hits


def away_from_ends(times_s: Floats, scenes: Sequence[FilmScene], fps: float) -> Floats:
    """Times far enough from the film's ends and from cuts for a turn to be visible."""
    stop = scenes[-1].frames.stop
    ends = np.array([0, stop, *(scene.frames.start for scene in scenes if scene.cut)]) / fps
    away_s = np.abs(times_s[:, None] - ends).min(axis=1)
    return np.asarray(times_s[away_s > _EDGE_FRAMES / fps])


def _within(times_s: Floats, scene: FilmScene, fps: float) -> Floats:
    return np.asarray(times_s[(times_s >= scene.frames.start / fps) & (times_s < scene.frames.stop / fps)])


def _settled(scene: FilmScene, sightings: Sightings, track: Track, fps: float) -> ShapeTrack:
    """What a scene shows after its first `SETTLE_S` seconds; a scene after a cut counts from its first frame."""
    settle = 0 if scene.cut else min(round(SETTLE_S * fps), len(scene.frames) // 2)
    return describe(sightings, track, range(scene.frames.start + settle, scene.frames.stop), fps)


def _read(
    number: int, scene: FilmScene, shown: ShapeTrack, bounces_s: Floats, onsets_s: Floats, fps: float
) -> SceneReading:
    caption = _caption(scene)
    return SceneReading(
        scene=number,
        start_s=scene.frames.start / fps,
        stop_s=scene.frames.stop / fps,
        prompt=scene.prompt,
        colour=shown.colour,
        shape=shown.shape,
        background=shown.background,
        motion=shown.motion,
        accuracy=None if caption is None else _accuracy(shown, caption),
        speed_px_s=shown.speed_px_s,
        seen=shown.seen,
        teleports=len(shown.teleports),
        bounces=len(bounces_s),
        onsets=len(onsets_s),
        f1=match(bounces_s, onsets_s, TOLERANCE_S).f1 if _sounds(scene) else None,
    )


def _accuracy(shown: ShapeTrack, caption: Caption) -> PromptAccuracy:
    part = shown.sightings
    colour = float(np.mean(part.colours == list(ALL_COLOURS).index(caption.colour)))
    shape = float(np.mean(part.shapes == SHAPES.index(caption.shape)))
    background = float(np.mean(part.backgrounds == list(BACKGROUNDS).index(caption.background)))
    motion = float(shown.motion == caption.motion.removesuffix(" silently"))
    return PromptAccuracy(colour, shape, background, motion, float(min(colour, shape, background, motion) > 0.5))


def _caption(scene: FilmScene) -> Caption | None:
    return None if scene.prompt is None else Caption.parse(scene.prompt)


def _sounds(scene: FilmScene) -> bool:
    caption = _caption(scene)
    return caption is None or caption.sounds
