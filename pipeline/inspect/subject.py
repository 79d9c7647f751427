"""The film under inspection, and its chunks, latents, scenes and prompts as far as they are known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.durations import parse_duration
from longtake.pipeline.errors import MediaError, SpecError
from longtake.pipeline.journal.root import check_input, check_no_stream
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import NAME, TakeCard, read_take
from longtake.pipeline.media.read import FilmCount, count_film

_EVEN = 0.25  # of a frame's duration, by which a step may differ from it: some containers keep whole milliseconds
_STEADY = 0.9  # share of steps that are even in a film with a steady rate


@dataclass(frozen=True)
class FilmScene:
    """A range of frames under one prompt; in a film without a take, a shot without a prompt."""

    prompt: str | None
    cut: bool
    frames: range


@dataclass(frozen=True)
class Subject:
    """A film to inspect.

    Args:
        url: of the film file.
        count: packet counts of its streams.
        fps: frames per second; without a take the rate of most frames, or their mean if the rate is not steady.
        steady: whether the rate is.
        chunk_borders: first frames of chunks, except the first chunk; empty if unknown.
        latent_borders: first frames of video latents, likewise; chunk borders are among them.
        scenes: at least one; together they cover the whole film. Without a take they are the shots between cuts.
        planned_frames, planned_samples: what the take planned; None without a take.
    """

    title: str
    url: str
    count: FilmCount
    fps: Fraction
    chunk_borders: tuple[int, ...]
    latent_borders: tuple[int, ...]
    scenes: tuple[FilmScene, ...]
    planned_frames: int | None = None
    planned_samples: int | None = None
    steady: bool = True

    def shown(self, times_s: NDArray[np.float64], cuts: Sequence[int]) -> Self:
        """The same film, with what only its pictures tell, if there is no take: its rate and its shots.

        Args:
            times_s: presentation time of every frame [f].
            cuts: first frames of shots, except the first shot.
        """
        if self.planned_frames is not None:
            return self
        steps_s, count = np.diff(times_s), len(times_s)
        even = np.abs(steps_s * float(self.fps) - 1) <= _EVEN
        steady = count < 3 or float(even.mean()) >= _STEADY
        span_s = float(times_s[-1] - times_s[0])
        fps = self.fps if steady or span_s <= 0 else Fraction((count - 1) / span_s).limit_denominator(1000)
        shots = tuple(FilmScene(None, True, range(*span)) for span in pairwise((0, *cuts, count)))
        return replace(self, fps=fps, scenes=shots, steady=steady)

    @property
    def num_frames(self) -> int:
        """Number of frames in the film."""
        return self.count.video.num_packets

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frames after cuts."""
        return tuple(scene.frames.start for scene in self.scenes if scene.cut and scene.frames.start)

    @property
    def changes(self) -> tuple[int, ...]:
        """First frames of scenes, except the film's start; the picture may change there on purpose."""
        return tuple(scene.frames.start for scene in self.scenes if scene.frames.start)


def open_subject(place: str, chunk: str | None = None) -> Subject:
    """Open `place`: an output root that holds a take, or any film.

    Args:
        chunk: the length of a chunk, such as `1s` or `16f`, for a film without a take.

    Raises:
        SpecError: the take is not complete yet, or `chunk` is invalid.
        MediaError: the film cannot be read.
    """
    check_no_stream(place)
    is_named_like_a_root = "." not in place.rpartition("/")[2].strip(".") and not Path(place).is_file()
    if is_named_like_a_root or Store(place).exists(NAME):
        return _of_take(Store(place))
    check_input(place)
    return _of_film(place, chunk)


def _of_take(store: Store) -> Subject:
    try:
        card = read_take(store)
    except FileNotFoundError:
        raise SpecError(f"{store.url} holds no take; name an output root of longtake render, or a film") from None
    if not store.exists(card.film):
        raise SpecError(f"{store.url} has no {card.film} yet; it is written once the render is complete")
    url = store.url_of(card.film)
    return Subject(
        title=card.title,
        url=url,
        count=_count(url),
        fps=Fraction(card.fps),
        chunk_borders=card.chunk_stops[:-1],
        latent_borders=card.latent_stops[:-1],
        scenes=_scenes(card),
        planned_frames=card.frames,
        planned_samples=card.samples,
    )


def _scenes(card: TakeCard) -> tuple[FilmScene, ...]:
    return tuple(FilmScene(scene.prompt, scene.cut, range(*scene.frames)) for scene in card.scenes)


def _of_film(url: str, chunk: str | None) -> Subject:
    count = _count(url)
    return Subject(
        title=url.rpartition("/")[2],
        url=url,
        count=count,
        fps=count.fps,
        chunk_borders=_grid(chunk, count.fps, count.video.num_packets) if chunk else (),
        latent_borders=(),
        scenes=(FilmScene(None, True, range(count.video.num_packets)),),
    )


def _count(url: str) -> FilmCount:
    try:
        return count_film(url)
    except FileNotFoundError:
        raise MediaError(f"{url} does not exist; name a film, or an output root of longtake render") from None


def _grid(chunk: str, fps: Fraction, num_frames: int) -> tuple[int, ...]:
    try:
        seconds, frames = parse_duration(chunk)
    except SpecError as error:
        raise SpecError(f"--chunk {chunk}: {error}") from error
    length = seconds * fps + frames
    if length < 1:
        raise SpecError(f"--chunk {chunk} is less than a frame at {fps} fps; use at least 1f")
    return tuple(round(number * length) for number in range(1, -(-num_frames // length)))
