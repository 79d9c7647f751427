"""The plan of an upscaled film: a pure function of the footage, its cuts and the spec, not of the workers.

    scene      frames between two cuts; the model starts with an empty state
    segment    frames of one scene that are upscaled, encoded and kept together: the unit of work and of resuming
    chunk      frames of one pass of the model, on a grid that begins with the scene

Every segment begins on its scene's chunk grid. A model that looks ahead also reads frames after it. The warm-up of a
segment are the frames before it that are upscaled and discarded. With a warm-up as long as the model's history, a
segment equals that of one uninterrupted pass, bit for bit.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from longtake.pipeline.durations import parse_duration
from longtake.pipeline.errors import SpecError
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.models.streaming_upscaler import ChunkGrid

SCALES = (2, 4)

_CLOCK = re.compile(r"(?:(\d{1,3}):)?(\d{1,4}):(\d{1,2}(?:\.\d{1,9})?)", re.ASCII)

# ------------------------------------------------------------------ how segments follow each other


@dataclass(frozen=True)
class Exact:
    """Every segment is warmed up over the model's whole history: equal to one pass, in any order."""

    def entry(self, grid: ChunkGrid, start: int) -> int:
        """The frame of a scene at which the model begins, for a segment that starts with frame `start` of it."""
        return grid.entry(start, grid.history_frames)

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True)
class WarmUp:
    """Every segment is warmed up over `frames`, rounded up to the grid: approximate if shorter than the history."""

    frames: int

    def __post_init__(self) -> None:
        if self.frames < 0:
            raise SpecError(f"--continuity is warmup={self.frames}; use 0 frames or more")

    def entry(self, grid: ChunkGrid, start: int) -> int:
        """Like `Exact.entry`, with a warm-up of `frames`."""
        return grid.entry(start, self.frames)

    def __str__(self) -> str:
        return f"warmup={self.frames}"


@dataclass(frozen=True)
class Handoff:
    """Every segment takes the model's state from the one before it: no frame is repeated, a scene is sequential."""

    def entry(self, _: ChunkGrid, start: int) -> int:
        """Like `Exact.entry`, without a warm-up."""
        return start

    def __str__(self) -> str:
        return "handoff"


Continuity = Exact | WarmUp | Handoff


def parse_continuity(text: str) -> Continuity:
    """The meaning of `exact`, `handoff` or `warmup=16`. Raises `SpecError` for anything else."""
    name, _, number = text.partition("=")
    if name == "warmup" and number.isdecimal():
        return WarmUp(int(number))
    if text not in ("exact", "handoff"):
        raise SpecError(f"--continuity is {text!r}; use exact, handoff, or warmup=N with a number of frames")
    return Exact() if text == "exact" else Handoff()


# ------------------------------------------------------------------ the spec


@dataclass(frozen=True)
class UpscaleSpec:
    """How footage is upscaled.

    Args:
        scale: how much larger each side becomes.
        codec: h264, hevc, av1 or ffv1.
        quality: the codec's quantiser, see `FootageEncoding`; None for its default.
        continuity: how segments follow each other.
        start, end: times such as `90s`, `1m30s`, `1:30.5` or `48f`; None for those of the footage.
        segment_frames: length of a segment, rounded up to whole chunks.
        scene_threshold: luma difference, in 0..1, above which a frame can be a cut; 0 finds no cuts.
    """

    scale: int = 2
    codec: str = "h264"
    quality: int | None = None
    continuity: Continuity = Exact()
    start: str | None = None
    end: str | None = None
    segment_frames: int = 128
    scene_threshold: float = 0.1

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise SpecError(f"--scale is {self.scale}; use {' or '.join(map(str, SCALES))}")
        if self.segment_frames < 1:
            raise SpecError(f"--segment-frames is {self.segment_frames}; use 1 or more")
        if not 0 <= self.scene_threshold < 1:
            raise SpecError(f"--scene-threshold is {self.scene_threshold:g}; use 0 (off) up to 1")

    @property
    def is_sequential(self) -> bool:
        """Whether a segment can start only after the one before it in its scene is finished."""
        return isinstance(self.continuity, Handoff)

    def card(self) -> dict[str, Any]:
        """The spec as plain values, by the names of the flags."""
        return {**vars(self), "continuity": str(self.continuity)}


def frames_to_upscale(footage: Footage, spec: UpscaleSpec) -> range:
    """The frames that are shown from `spec.start` to before `spec.end`. Raises `SpecError` if there are none."""
    start = 0 if spec.start is None else _frame_at(footage, "--start", spec.start)
    end = footage.num_frames if spec.end is None else _frame_at(footage, "--end", spec.end)
    if start >= end:
        raise SpecError(
            f"--start {spec.start or 0} to --end {spec.end or 'the end'} holds no frame; the footage lasts"
            f" {float(footage.seconds):g} s, {footage.num_frames} frames"
        )
    return range(start, end)


def _frame_at(footage: Footage, flag: str, moment: str) -> int:
    """The first frame that is shown at `moment` or later."""
    try:
        seconds, frames = _parse_moment(moment)
    except SpecError as error:
        raise SpecError(f"{flag} is {moment!r}; {error}") from None
    ticks = footage.pts[0] + seconds / footage.time_base
    return min(bisect_left(footage.pts, ticks) + frames, footage.num_frames)


def _parse_moment(text: str) -> tuple[Fraction, int]:
    if (clock := _CLOCK.fullmatch(text)) is not None:
        hours, minutes, seconds = clock.groups()
        return Fraction(seconds) + 60 * int(minutes) + 3600 * int(hours or 0), 0
    return parse_duration(text)


# ------------------------------------------------------------------ the plan


@dataclass(frozen=True)
class FootageSegmentSpan:
    """One segment: its frames, and the frames of the same scene before them that warm up the model.

    Args:
        scene: the number of its scene.
        scene_frames: all frames of the scene, with which the chunk grid begins.
        ahead: the frames after it that its pictures depend on.
    """

    index: int
    scene: int
    scene_frames: range
    frames: range
    warm_up: range
    ahead: range

    @property
    def scene_start(self) -> int:
        """The frame with which its chunk grid begins."""
        return self.scene_frames.start

    @property
    def ends_scene(self) -> bool:
        """Whether it is the last of its scene."""
        return self.frames.stop == self.scene_frames.stop

    @property
    def opens_scene(self) -> bool:
        """Whether it is the first of its scene."""
        return self.frames.start == self.scene_start

    def card(self) -> dict[str, Any]:
        """Everything that decides which frames the model sees and where it starts, as plain values."""
        return {
            "scene_start": self.scene_start,
            "warm_up": [self.warm_up.start, self.warm_up.stop],
            "frames": [self.frames.start, self.frames.stop],
            "ahead": len(self.ahead),
        }


@dataclass(frozen=True)
class UpscalePlan:
    """The scenes of the frames to upscale, and their segments in order."""

    spec: UpscaleSpec
    grid: ChunkGrid
    scenes: tuple[range, ...]
    segments: tuple[FootageSegmentSpan, ...]

    @property
    def frames(self) -> range:
        """All frames of the film."""
        return range(self.scenes[0].start, self.scenes[-1].stop)

    @property
    def num_passed_frames(self) -> int:
        """Frames that go through the model, including warm-ups."""
        ahead = 0 if self.spec.is_sequential else 1  # a state that is passed on has seen what lies ahead
        return sum(len(span.warm_up) + len(span.frames) + ahead * len(span.ahead) for span in self.segments)

    def before(self, span: FootageSegmentSpan) -> FootageSegmentSpan | None:
        """The segment before `span` in its scene; None for the first one."""
        return None if span.opens_scene else self.segments[span.index - 1]


def plan_upscale(frames: range, cuts: Sequence[int], spec: UpscaleSpec, grid: ChunkGrid) -> UpscalePlan:
    """Split `frames` into scenes and segments.

    Args:
        frames: of the footage, in display order; see `frames_to_upscale`.
        cuts: frames that begin a new scene. Those outside `frames` are ignored.
        grid: the model's.
    """
    borders = [frames.start, *sorted({cut for cut in cuts if frames.start < cut < frames.stop}), frames.stop]
    scenes = tuple(range(start, stop) for start, stop in pairwise(borders))
    segments: list[FootageSegmentSpan] = []
    for number, scene in enumerate(scenes):
        for own in _split(scene, spec.segment_frames, grid):
            entry = scene.start + spec.continuity.entry(grid, own.start - scene.start)
            ahead = range(own.stop, min(own.stop + grid.lookahead_frames, scene.stop))
            segments.append(FootageSegmentSpan(len(segments), number, scene, own, range(entry, own.start), ahead))
    return UpscalePlan(spec, grid, scenes, tuple(segments))


def _split(scene: range, segment_frames: int, grid: ChunkGrid) -> Iterator[range]:
    """The segments of a scene: as short as whole chunks allow, each followed by all frames that it looks ahead to."""
    first = scene.start
    while first < scene.stop:
        stop = scene.start + grid.border(first - scene.start + segment_frames)
        if stop + max(1, grid.lookahead_frames) > scene.stop:
            stop = scene.stop
        yield range(first, stop)
        first = stop
