"""Noise levels from 1 (noise) down to 0 (clean), and the schedules that choose them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import numpy as np
from typing_extensions import override

from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.limits import DynamicShift
from longtake.pipeline.registry import SCHEDULES, resolve
from longtake.pipeline.sampling.solver import solver_named
from longtake.pipeline.sampling_spec import SamplingSpec

Real = TypeVar("Real", float, np.ndarray)

Levels = Mapping[str, Sequence[float]]
"""The noise levels of each stream, step by step; all streams have the same number."""


RESTART_LEVEL = 0.65
"""The picture's noise level from which a restart denoises again: above it the path of an object is decided."""


def restart_step(levels: Levels) -> int:
    """The first step at which the picture is at most at `RESTART_LEVEL`."""
    return next(step for step, level in enumerate(levels["video"]) if level <= RESTART_LEVEL)


@dataclass(frozen=True)
class Sampled:
    """What a schedule may depend on.

    Args:
        steps, shift: of the storyboard's sampling.
        audio_lag: how far the sound's denoising lags the picture's; see `staggered`.
        lowest: the lowest level above 0, before it is shifted; see `Solver.lowest_level`.
        dynamic: how the model's shift grows with the size of a pass; None where it does not.
        video_tokens: of a pass over a whole chunk; the same for every chunk.
        model: its name, for errors.
    """

    steps: int
    shift: float
    audio_lag: float
    lowest: float
    dynamic: DynamicShift | None
    video_tokens: int
    model: str


class Schedule(Protocol):
    """Chooses the noise levels of a film. `registry.SCHEDULES` names them."""

    def sigmas(self, film: Sampled) -> Levels:
        """The levels of each stream, from 1 to 0. Raises `SpecError` if the model does not support this schedule."""
        ...


class Linear(Schedule):
    """Even steps."""

    @override
    def sigmas(self, film: Sampled) -> Levels:
        return noise_levels(film.steps, audio_lag=film.audio_lag, lowest=film.lowest)


class Shifted(Schedule):
    """Even steps, shifted towards noise by the storyboard's `shift`."""

    @override
    def sigmas(self, film: Sampled) -> Levels:
        return noise_levels(film.steps, film.shift, film.audio_lag, film.lowest)


class Full(Schedule):
    """Even steps from 1 to the lowest level that models of a thousand timesteps were trained with, and one to 0, all
    shifted: what diffusers' FlowMatchEulerDiscreteScheduler does by default. That level is shifted twice."""

    @override
    def sigmas(self, film: Sampled) -> Levels:
        lowest = shift_sigma(1 / 1000, film.shift)
        done = np.arange(film.steps) / max(1, film.steps - 1)
        return {
            stream: (*map(float, shift_sigma(1 - (1 - lowest) * progress, film.shift)), 0.0)
            for stream, progress in zip(("video", "audio"), staggered(done, film.audio_lag), strict=True)
        }


class Dynamic(Schedule):
    """Even steps, shifted the more, the more tokens a pass has, for models that were trained so."""

    @override
    def sigmas(self, film: Sampled) -> Levels:
        return dynamic_levels(film, film.video_tokens)


class Fixed(Schedule):
    """As `Dynamic`, for the same number of tokens whatever the size: LTX-2's own scripts sample so."""

    @override
    def sigmas(self, film: Sampled) -> Levels:
        return dynamic_levels(film, None)


@dataclass(frozen=True)
class Listed(Schedule):
    """The levels that a storyboard lists, the same for both streams; 0 follows."""

    levels: tuple[float, ...]

    @override
    def sigmas(self, film: Sampled) -> Levels:
        return dict.fromkeys(("video", "audio"), (*self.levels, 0.0))


def sigmas(
    sampling: SamplingSpec,
    audio_lag: float,
    dynamic: DynamicShift | None = None,
    video_tokens: int = 0,
    model: str = "the model",
) -> Levels:
    """The noise levels of a film; see `Sampled`. Raises `SpecError` if the model does not support the schedule."""
    wanted, lowest = sampling.schedule, solver_named(sampling.solver).lowest_level
    schedule = cast(Schedule, resolve(SCHEDULES[wanted])()) if isinstance(wanted, str) else Listed(wanted)
    return schedule.sigmas(Sampled(sampling.steps, sampling.shift, audio_lag, lowest, dynamic, video_tokens, model))


def dynamic_levels(film: Sampled, tokens: int | None) -> Levels:
    """Even steps, shifted for a pass of `tokens` tokens; None for the most tokens of the model's dynamic shift.

    Raises:
        SpecError: the model has no dynamic shift.
    """
    if film.dynamic is None:
        name = "fixed" if tokens is None else "dynamic"
        raise SpecError(f"sampling.schedule is {name!r}; {film.model} has none, use shifted or linear")
    shift = film.dynamic.shift(film.dynamic.max_tokens if tokens is None else tokens)
    levels = noise_levels(film.steps, shift, film.audio_lag, film.lowest)
    if film.dynamic.terminal is None:
        return levels
    return {name: stretched(stream, film.dynamic.terminal) for name, stream in levels.items()}


def shift_sigma(sigma: Real, shift: float) -> Real:
    """A level shifted towards noise: sigma' = shift * sigma / (1 + (shift - 1) * sigma).

    Source: Esser et al., arXiv 2403.03206, section 5.3.2; `shift=1` changes nothing.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def staggered(progress: Real, lag: float) -> tuple[Real, Real]:
    """The progress of the leading and of the lagging stream, each 0..1, when the whole is at `progress` 0..1.

    With lag 0 they are equal; with lag 1 the second starts when the first is done.
    """
    reach = progress * (1 + lag)
    leading, lagging = np.clip(reach, 0, 1), np.clip(reach - lag, 0, 1)
    return leading, lagging


def noise_levels(steps: int, shift: float = 1.0, audio_lag: float = 0.0, lowest: float = 0.0) -> Levels:
    """`steps + 1` levels of each stream, both reaching 0 at the end: even steps, shifted by `shift_sigma`.

    Args:
        lowest: the level, before the shift, that the even steps lead to; one more step leads from there to 0.
    """
    done = np.arange(steps + 1) / steps
    return {
        stream: tuple(map(float, np.where(progress < 1, shift_sigma(1 - (1 - lowest) * progress, shift), 0.0)))
        for stream, progress in zip(("video", "audio"), staggered(done, audio_lag), strict=True)
    }


def stretched(levels: Sequence[float], terminal: float) -> tuple[float, ...]:
    """Levels from 1 to 0 whose last one above 0 becomes `terminal`, the others in proportion.

    Source: `shift_terminal` of diffusers' FlowMatchEulerDiscreteScheduler, as LTX-Video samples.
    """
    last = min(level for level in levels if level > 0)
    scale = (1 - terminal) / (1 - last) if last < 1 else 1.0
    return tuple(1 - (1 - level) * scale if level > 0 else 0.0 for level in levels)
