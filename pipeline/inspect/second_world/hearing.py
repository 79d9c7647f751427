"""The sounds of films of the second world: the events, each with the shape that makes it, and the bed.

All pitches are multiples of 20 Hz, so over 50 ms they do not disturb each other. An event of a pitch is where the
amplitude after a time differs most from what the ringing of earlier tones leaves. Its harmonics tell the shape, its
channels the place.

Shapes: n samples, t steps of one millisecond, e events.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from longtake.pipeline.inspect.sound import local_maxima
from longtake.pipeline.training.second_world.moves import SIZE, Floats
from longtake.pipeline.training.second_world.pictures import Pixels
from longtake.pipeline.training.second_world.sounds import BED_LEVEL, BEDS_HZ, DECAY_S, PITCH_HZ
from longtake.pipeline.training.world import HARMONICS

_STEPS_PER_S = 1000
_WINDOW = 50  # ms; the period of the common divisor of all pitches
_KEPT = float(np.exp(-_WINDOW / _STEPS_PER_S / DECAY_S))  # of a tone's amplitude, after a window
_APART = 40  # ms
_LEAST = 0.03  # amplitude of both channels together; the softest event has 0.05
_LEAK, _LEAK_S = 0.3, 0.06  # of a sudden tone into other pitches, around its beginning


@dataclass(frozen=True)
class HeardEvent:
    """The beginning of a tone: its time, its colour by pitch, its shape by timbre, and its place in units."""

    time_s: float
    colour: str
    shape: str
    x: float


@dataclass(frozen=True)
class Heard:
    """All events, ascending, and the pattern of the ground by the bed."""

    events: tuple[HeardEvent, ...]
    pattern: str


def hear(sound: Pixels, rate: int) -> Heard:
    """Read both channels [2 n] of some seconds of sound."""
    both = sound.sum(axis=0, dtype=np.float64)
    if len(both) < _WINDOW * rate // _STEPS_PER_S:
        return Heard((), "plain")
    starts: list[tuple[float, float, str]] = []
    for colour, pitch in PITCH_HZ.items():
        risen = _risen(both, rate, pitch)
        steps = local_maxima(risen, _APART, _LEAST)
        starts += [(step / _STEPS_PER_S, float(risen[step]), colour) for step in steps.tolist()]
    events = [
        _event(sound, rate, time_s, colour)
        for time_s, amplitude, colour in sorted(starts)
        if not any(
            abs(time_s - other_s) < _LEAK_S and amplitude < _LEAK * other and colour != its_colour
            for other_s, other, its_colour in starts
        )
    ]
    return Heard(tuple(events), _bed(both, rate))


def _amplitudes(sound: Floats, rate: int, pitch: float) -> Floats:
    """Complex amplitude of a pitch over the window that begins at each step [t]."""
    angles = 2 * np.pi * pitch / rate * np.arange(len(sound))
    total = np.concatenate(([0], np.cumsum(sound * np.exp(-1j * angles))))
    width = _WINDOW * rate // _STEPS_PER_S
    first = np.arange(max(0, (len(sound) - width) * _STEPS_PER_S // rate + 1)) * rate // _STEPS_PER_S
    return np.asarray((total[first + width] - total[first]) * 2 / width)


def _risen(sound: Floats, rate: int, pitch: float) -> Floats:
    """By how much the amplitude from each step on exceeds what is left of that before [t]."""
    after = _amplitudes(sound, rate, pitch)
    before = np.concatenate((np.zeros(min(_WINDOW, len(after))), after[:-_WINDOW]))
    return np.asarray(np.abs(after - _KEPT * before))


def _event(sound: Pixels, rate: int, time_s: float, colour: str) -> HeardEvent:
    """The timbre and the place of the tone of a pitch that begins at a time."""
    width, first = _WINDOW * rate // _STEPS_PER_S, round(time_s * rate)
    orders = np.arange(1, len(HARMONICS["circle"]) + 1)
    spans = [sound[:, max(0, start) : start + width] for start in (first - width, first)]
    before, after = (
        2 / width * span @ np.exp(-2j * np.pi / rate * PITCH_HZ[colour] * np.outer(np.arange(span.shape[1]), orders))
        for span in spans
    )
    if first < width:
        before = 0 * after
    # The window begins at another phase of each harmonic; a period of 50 ms later it is the same.
    tone = np.abs(after - _KEPT * before)
    left, right = tone[:, 0].tolist()
    timbre = np.hypot(*tone)
    shape = max(HARMONICS, key=lambda name: timbre @ np.array(HARMONICS[name]) / np.hypot.reduce(HARMONICS[name]))
    return HeardEvent(time_s, colour, shape, float(np.arctan2(right, left) / (np.pi / 2) * SIZE))


def _bed(sound: Floats, rate: int) -> str:
    """The pattern whose bed is heard: by the median over windows, which tones do not disturb for long."""
    width = _WINDOW * rate // _STEPS_PER_S
    whole = len(sound) // width
    levels = {"plain": BED_LEVEL}
    for pattern, pitch in BEDS_HZ.items():
        if pitch is not None and whole:
            parts = [sound[start:stop] for start, stop in pairwise(range(0, (whole + 1) * width, width))]
            waves = np.exp(-2j * np.pi / rate * pitch * np.arange(width))
            parts_of_pitch = np.array(parts) @ waves
            level = np.hypot(np.median(parts_of_pitch.real), np.median(parts_of_pitch.imag))
            levels[pattern] = float(level) * 2 / width
    return max(levels, key=lambda pattern: levels[pattern])
