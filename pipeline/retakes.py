"""Retakes: a part of a finished film that is rendered again, while everything outside of it stays as it is.

A retake names the take that it changes. Latents of that take are held where the retake renders nothing: outside of its
time, in streams that it leaves alone, and in the last video latent of its last chunk, so that the picture meets what
follows. Chunks outside of it are taken over with their keys, which do not depend on the retake.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.durations import seconds_at
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.journal import Journal
from longtake.pipeline.journal.keys import FilmKeys, Parts
from longtake.pipeline.journal.store import Store, resolved
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.spec import Retake
from longtake.pipeline.values import GivenLatents


def rendered(plan: FilmPlan, number: int, chunk: ChunkSpan) -> Mapping[str, list[int]] | None:
    """The places of the latents of `chunk` that a retake renders, by stream; None if it leaves the chunk alone."""
    retake, clock = plan.storyboard.retakes[number], plan.clock
    frames = _frames(plan, retake)
    starts, stops = clock.latent_starts(chunk), clock.latent_stops(chunk)
    video = [
        place
        for place, (start, stop) in enumerate(zip(starts, stops, strict=True))
        if start < frames.stop and stop > frames.start
    ]
    if not video:
        return None
    is_last = frames.stop <= chunk.frames.stop
    if is_last and not chunk.ends_section and len(video) > 1 and video[-1] == len(starts) - 1:
        video = video[:-1]
    first, stop = clock.samples(frames.start), clock.samples(frames.stop)
    stride = clock.audio_stride
    audio = [
        place
        for place, latent in enumerate(chunk.audio_latents)
        if latent * stride < stop and (latent + 1) * stride > first
    ]
    found = {"video": video, "audio": audio}
    return {name: places if name in retake.streams else [] for name, places in found.items()}


def parts_of(plan: FilmPlan, chunk: ChunkSpan, first: int) -> list[Parts]:
    """What those of the `first` retakes that render a part of `chunk` add to its key, in order."""
    return [
        {**retake.model_dump(mode="json", exclude={"take"}), "places": dict(places)}
        for number, retake in enumerate(plan.storyboard.retakes[:first])
        if (places := rendered(plan, number, chunk)) is not None
    ]


def seed_of(plan: FilmPlan, chunk: ChunkSpan) -> int:
    """The seed of the noise of `chunk`."""
    return next((retake.seed for retake in _of(plan, chunk)), plan.storyboard.seed)


def prompt_of(plan: FilmPlan, chunk: ChunkSpan) -> str:
    """The prompt of `chunk`."""
    prompts = (retake.prompt for retake in _of(plan, chunk) if retake.prompt is not None)
    return next(prompts, plan.storyboard.scenes[chunk.scene].prompt)


def _of(plan: FilmPlan, chunk: ChunkSpan) -> list[Retake]:
    """The retakes that render a part of `chunk`, the latest first."""
    retakes = plan.storyboard.retakes
    return [retakes[number] for number in reversed(range(len(retakes))) if rendered(plan, number, chunk) is not None]


def _frames(plan: FilmPlan, retake: Retake) -> range:
    fps = plan.storyboard.video.fps
    return range(floor(seconds_at(retake.start, fps) * fps), ceil(seconds_at(retake.stop, fps) * fps))


@dataclass(frozen=True)
class TakeBefore:
    """The take that the latest retake of a film changes.

    Args:
        plan: of the film with its retakes.
        journal: of that take; its keys are those of the film without the latest retake.
    """

    plan: FilmPlan
    journal: Journal

    @classmethod
    def of(cls, plan: FilmPlan, keys: FilmKeys, store: Store) -> "TakeBefore":
        """The take before the latest retake.

        Args:
            keys: of the film without it.
            store: of the film with it.

        Raises:
            SpecError: the retake is not in the film, or the take does not hold the film.
        """
        number = len(plan.storyboard.retakes) - 1
        retake, frames = plan.storyboard.retakes[number], _frames(plan, plan.storyboard.retakes[number])
        if frames.stop > plan.num_frames:
            has_s = float(plan.clock.seconds(plan.num_frames))
            raise SpecError(f"retakes[{number}] is from {retake.start} to {retake.stop}; the film lasts {has_s:g} s")
        there = Store(retake.take)
        if resolved(there.url) == resolved(store.url):
            raise SpecError(f"retakes[{number}].take is {retake.take!r}, which is the output itself; use another -o")
        journal = Journal(there, keys)
        needed = {chunk.index for chunk in plan.chunks if rendered(plan, number, chunk) is not None}
        missing = {*range(len(plan.chunks))} - {*journal.kept("segments")} | needed - {*journal.kept("latents")}
        if missing:
            raise SpecError(
                f"retakes[{number}].take is {retake.take!r}, which does not hold chunk {min(missing)} of this film"
                f" without the retake ({journal.why_not('segments', min(missing))}); render the whole film there first"
            )
        return cls(plan, journal)

    def held(self, chunk: ChunkSpan) -> Mapping[str, GivenLatents]:
        """The latents of `chunk` that the latest retake holds, by stream."""
        places = rendered(self.plan, len(self.plan.storyboard.retakes) - 1, chunk)
        if places is None:
            return {}
        latents = self.journal.latents(chunk)
        assert latents is not None, "`of` found them"
        pairs = {"video": latents.video, "audio": latents.audio}
        return {name: found for name, values in pairs.items() if (found := _others(values, places[name]))}


def _others(values: Tensor, rendered_places: list[int]) -> GivenLatents | None:
    places = [place for place in range(len(values)) if place not in rendered_places]
    return GivenLatents(tuple(places), values[torch.tensor(places)]) if places and values.numel() else None
