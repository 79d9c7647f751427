"""Time on a film, in exact fractions: frames, samples and latents never drift apart.

A *section* lies between two cuts. Codecs start again at a cut, so latents are counted within a section and frames
within the film. Each border is the floor of an exact time; nothing is rounded per chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from math import ceil, floor

from longtake.pipeline.errors import SpecError


@dataclass(frozen=True)
class MediaClock:
    """Rates and strides of one film: what a second is in frames, samples and latents.

    Args:
        fps: frames per second, exact (24000/1001 is `Fraction(24000, 1001)`).
        sample_rate: sound samples per second.
        video_stride: frames that one video latent holds.
        audio_stride: samples that one audio latent advances.
        first_latent_frames: frames held by the first latent of a section; 1 for the 1+4k and 1+8k codecs,
            `None` if the first latent is like the others.
        audio_centre: the centre of an audio latent within its stride; 0 for an MDCT frame, which reaches equally far
            back and forward.
    """

    fps: Fraction
    sample_rate: int
    video_stride: int
    audio_stride: int
    first_latent_frames: int | None = None
    audio_centre: Fraction = Fraction(1, 2)

    def __post_init__(self) -> None:
        for name in ("fps", "sample_rate", "video_stride", "audio_stride"):
            if getattr(self, name) <= 0:
                raise SpecError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.first_latent_frames is not None and not 1 <= self.first_latent_frames <= self.video_stride:
            raise SpecError(f"first_latent_frames is {self.first_latent_frames}; use None or 1..{self.video_stride}")

    def frames(self, latents: int) -> int:
        """Frames that the first `latents` video latents of a section hold."""
        if latents <= 0 or self.first_latent_frames is None:
            return latents * self.video_stride
        return self.first_latent_frames + (latents - 1) * self.video_stride

    def latents(self, frames: int) -> int:
        """The fewest video latents of a section that hold `frames` frames."""
        if frames <= 0 or self.first_latent_frames is None:
            return ceil(Fraction(frames, self.video_stride))
        return 1 + max(0, ceil(Fraction(frames - self.first_latent_frames, self.video_stride)))

    def seconds(self, frames: int) -> Fraction:
        """The exact time at which frame `frames` begins."""
        return frames / self.fps

    def samples(self, frames: int) -> int:
        """Whole sound samples that fit before frame `frames`."""
        return floor(self.seconds(frames) * self.sample_rate)

    def audio_latents(self, frames: int) -> int:
        """Whole audio latents that fit before frame `frames`."""
        return self.samples(frames) // self.audio_stride

    def video_times(self, span: "ChunkSpan") -> list[float]:
        """The time in seconds at the middle of each of the chunk's video latents."""
        frames = self._latent_frames(span)
        starts = accumulate(frames, initial=0)
        return [
            float(span.start_s + (start + Fraction(n, 2)) / self.fps) for start, n in zip(starts, frames, strict=False)
        ]

    def latent_starts(self, span: "ChunkSpan") -> list[int]:
        """The first frame of the film that each of the chunk's video latents holds."""
        return list(accumulate(self._latent_frames(span)[:-1], initial=span.frames.start))

    def latent_stops(self, span: "ChunkSpan") -> list[int]:
        """The frame of the film after each of the chunk's video latents; the film's end trims the last."""
        stops = accumulate(self._latent_frames(span), initial=span.frames.start)
        return [min(stop, span.frames.stop) for stop in list(stops)[1:]]

    def _latent_frames(self, span: "ChunkSpan") -> list[int]:
        frames = [self.video_stride] * len(span.latents)
        if span.index == span.section and self.first_latent_frames is not None:
            frames[0] = self.first_latent_frames
        return frames

    def audio_times(self, span: "ChunkSpan") -> list[float]:
        """The time in seconds at the middle of each of the chunk's audio latents."""
        stride_s = Fraction(self.audio_stride, self.sample_rate)
        return [float((latent + self.audio_centre) * stride_s) for latent in span.audio_latents]


@dataclass(frozen=True)
class SceneSpan:
    """One scene on the clock: `frames` is snapped to video latents, `cut` says whether it opens a section."""

    index: int
    cut: bool
    frames: range


@dataclass(frozen=True)
class ChunkSpan:
    """One chunk on the clock: the unit that is denoised, committed, encoded and published as a whole.

    Args:
        index: chunk number in the film, from 0. Chunks of the film that it continues have numbers below 0, as have
            their latents, frames, samples and times.
        section: chunk number, in the film, of the section's first chunk (the last cut).
        scene: the scene to which it belongs.
        scene_start: chunk number of that scene's first chunk.
        latents: video latents, numbered through the film.
        audio_latents: audio latents, numbered through the film.
        frames: frames of the film.
        samples: sound samples of the film.
        start_s: exact time of the first frame.
        stop_s: exact time after the last video latent (untrimmed).
        ends_section: the codecs end here, because a cut or the film's end follows.
    """

    index: int
    section: int
    scene: int
    scene_start: int
    latents: range
    audio_latents: range
    frames: range
    samples: range
    start_s: Fraction
    stop_s: Fraction
    ends_section: bool


def plan_scenes(
    clock: MediaClock, durations_s: Sequence[Fraction], cuts: Sequence[bool], before: int = 0
) -> tuple[SceneSpan, ...]:
    """Lay scenes on the clock: every border inside the film snaps to the nearest video latent, the end is exact.

    Args:
        durations_s: length of each scene in seconds, as the storyboard has it.
        cuts: whether each scene opens with a cut. The first does, unless it continues another film.
        before: video latents of the film that the first scene continues.
    """
    scenes: list[SceneSpan] = []
    end_s = Fraction(0)
    start, section_start = 0, -clock.frames(before)
    for index, (duration_s, opens_with_cut) in enumerate(zip(durations_s, cuts, strict=True)):
        end_s += duration_s
        cut = opens_with_cut if index else not before
        section_start = start if cut else section_start
        end = end_s * clock.fps
        if index == len(durations_s) - 1:
            stop = round(end)
        else:
            stop = section_start + _nearest_border(clock, end - section_start)
        if stop <= start:
            raise SpecError(
                f"scenes[{index}].duration is {float(duration_s):g} s; once borders snap to video latents of"
                f" {clock.video_stride} frames ({float(clock.seconds(clock.video_stride)):g} s) nothing is left of it;"
                f" make it at least {clock.video_stride}f or join it with its neighbour"
            )
        scenes.append(SceneSpan(index, cut, range(start, stop)))
        start = stop
    return tuple(scenes)


def _nearest_border(clock: MediaClock, frames: Fraction) -> int:
    above = clock.latents(ceil(frames))
    borders = (clock.frames(max(above - 1, 0)), clock.frames(above))
    return min(borders, key=lambda border: abs(border - frames))


def plan_chunks(
    clock: MediaClock,
    scenes: Sequence[SceneSpan],
    chunk_latents: int,
    before: Sequence[ChunkSpan] = (),
    overlap: int = 0,
) -> tuple[ChunkSpan, ...]:
    """Cut scenes into chunks of at most `chunk_latents` video latents; spans tile the film without gap or overlap.

    Args:
        before: the chunks that the first scene continues; see `plan_before`.
        overlap: latents that a pass shows before those of its chunk. A section's first chunk has none, so it is longer
            by as many.
    """
    if chunk_latents < 1:
        raise SpecError(f"chunk_latents is {chunk_latents}; a chunk holds at least 1 video latent")
    return tuple(_chunks(clock, scenes, chunk_latents, before, overlap))


def looked_ahead(span: Callable[[int], ChunkSpan], chunk: ChunkSpan, latents: int) -> list[ChunkSpan]:
    """The chunks right after `chunk` that hold the next `latents` video latents of its section, in order.

    Args:
        span: returns the chunk with a number.
    """
    found: list[ChunkSpan] = []
    last = chunk
    while sum(len(later.latents) for later in found) < latents and not last.ends_section:
        last = span(last.index + 1)
        found.append(last)
    return found


def plan_before(clock: MediaClock, latents: int, chunk_latents: int) -> tuple[ChunkSpan, ...]:
    """The last `latents` video latents of another film, which this one continues, as finished chunks."""
    borders = sorted({-latents, *range(0, -latents, -chunk_latents)})
    film_frame = clock.frames(latents)
    frames = [clock.frames(border + latents) - film_frame for border in borders]
    section = 1 - len(borders)
    return tuple(
        ChunkSpan(
            index=section + number,
            section=section,
            scene=0,
            scene_start=section,
            latents=range(borders[number], borders[number + 1]),
            audio_latents=range(clock.audio_latents(start), clock.audio_latents(stop)),
            frames=range(start, stop),
            samples=range(clock.samples(start), clock.samples(stop)),
            start_s=clock.seconds(start),
            stop_s=clock.seconds(stop),
            ends_section=False,
        )
        for number, (start, stop) in enumerate(pairwise(frames))
    )


def _chunks(
    clock: MediaClock, scenes: Sequence[SceneSpan], chunk_latents: int, before: Sequence[ChunkSpan], overlap: int
) -> Iterator[ChunkSpan]:
    film_stop = scenes[-1].frames.stop
    index = latent = audio_latent = 0
    section, section_latent, section_frame = -len(before), -sum(len(span.latents) for span in before), 0
    if before:
        section_frame = before[0].frames.start
    for number, scene in enumerate(scenes):
        if scene.cut:
            section, section_frame, section_latent = index, scene.frames.start, latent
        scene_start = index
        section_closes = number + 1 == len(scenes) or scenes[number + 1].cut
        last_latent = section_latent + clock.latents(scene.frames.stop - section_frame)
        while latent < last_latent:
            stop = min(latent + chunk_latents + (overlap if latent == section_latent else 0), last_latent)
            border = section_frame + clock.frames(stop - section_latent)
            frames = range(section_frame + clock.frames(latent - section_latent), min(border, scene.frames.stop))
            samples = range(clock.samples(frames.start), clock.samples(frames.stop))
            ends_film = frames.stop == film_stop
            audio_stop = ceil(Fraction(samples.stop, clock.audio_stride)) if ends_film else clock.audio_latents(border)
            yield ChunkSpan(
                index=index,
                section=section,
                scene=scene.index,
                scene_start=scene_start,
                latents=range(latent, stop),
                audio_latents=range(audio_latent, audio_stop),
                frames=frames,
                samples=samples,
                start_s=clock.seconds(frames.start),
                stop_s=clock.seconds(border),
                ends_section=section_closes and stop == last_latent,
            )
            index, latent, audio_latent = index + 1, stop, audio_stop
