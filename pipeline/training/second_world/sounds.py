"""The sound of the second world: a decaying tone for each event, and a soft bed for each pattern of the ground.

Pitch by colour, timbre by shape, loudness by impact, stereo by place. Every frequency is a multiple of 20 Hz with its
phase fixed to the clip's clock, as in the first world.

Shapes: n samples, k samples of a tone, two channels (left, right).
"""

from functools import cache

import numpy as np

from longtake.pipeline.training.second_world.moves import SIZE, SPEEDS, Event, Floats, Moves
from longtake.pipeline.training.second_world.pictures import Pixels
from longtake.pipeline.training.world import HARMONICS

SAMPLE_RATE = 24_000

PITCH_HZ = {"red": 260, "green": 300, "blue": 340, "yellow": 380, "purple": 420, "cyan": 460}
"""No harmonic of one is a harmonic of another, so that two tones at once can be told apart."""

BEDS_HZ = {"plain": None, "gradient": 80, "striped": 120, "dotted": 160}
BED_LEVEL = 0.02
ATTACK_S, DECAY_S, TONE_S = 0.004, 0.16, 1.25
SOFT = 0.08
"""Amplitude at a touch, and of a shape that leaves or returns."""
LOUD = 0.4

_PERIOD = SAMPLE_RATE // 20


def render_sound(moves: Moves) -> Pixels:
    """Both channels [2 n], float32."""
    num_samples = round(moves.stop_s * SAMPLE_RATE)
    return strike_tones(moves, num_samples) + hum(moves, num_samples)


def strike_tones(moves: Moves, num_samples: int) -> Pixels:
    """The tones of all events [2 n]."""
    length = round(TONE_S * SAMPLE_RATE)
    sound = np.zeros((2, num_samples + length), np.float32)
    for event in moves.events:
        body = moves.caption.bodies[event.body]
        if not body.sounds:
            continue
        first = int(np.ceil(event.time_s * SAMPLE_RATE))
        late_s = first / SAMPLE_RATE - event.time_s
        rise, fall = _envelopes()
        envelope = rise * np.exp(-late_s / DECAY_S) - fall * np.exp(-late_s * (1 / ATTACK_S + 1 / DECAY_S))
        tone = np.resize(np.roll(_carrier(body.colour, body.shape), -(first % _PERIOD)), length) * envelope
        sound[:, first : first + length] += (loudness(event) * pan(event.place[0]))[:, None].astype(np.float32) * tone
    return sound[:, :num_samples]


def hum(moves: Moves, num_samples: int) -> Pixels:
    """The bed [n] of the ground's pattern."""
    bed_hz = BEDS_HZ[moves.caption.pattern]
    if bed_hz is None:
        return np.zeros(num_samples, np.float32)
    cycle = np.arange(_PERIOD) / SAMPLE_RATE * 2 * np.pi * bed_hz
    return np.resize((BED_LEVEL * np.cos(cycle)).astype(np.float32), num_samples)


def loudness(event: Event) -> float:
    """Amplitude of an event's tone, by its impact speed; those who leave and return are soft."""
    return SOFT + (LOUD - SOFT) * event.speed / SPEEDS["fast"][1] if event.kind in ("wall", "meeting") else SOFT


def pan(x: float) -> Floats:
    """Gains of the left and the right channel for a place, of constant power."""
    angle = np.pi / 2 * np.clip(x / SIZE, 0.05, 0.95)
    return np.array([np.cos(angle), np.sin(angle)])


@cache
def _envelopes() -> tuple[Pixels, Pixels]:
    """The two exponentials [k] whose difference is the envelope of a tone that begins on a sample."""
    elapsed_s = np.arange(round(TONE_S * SAMPLE_RATE)) / SAMPLE_RATE
    fall = np.exp(-elapsed_s / DECAY_S)
    return fall.astype(np.float32), (fall * np.exp(-elapsed_s / ATTACK_S)).astype(np.float32)


@cache
def _carrier(colour: str, shape: str) -> Pixels:
    """One period [k] of a steady tone of amplitude 1, summed over its harmonics by power."""
    weights = np.array(HARMONICS[shape])
    orders = np.arange(1, len(weights) + 1)[:, None]
    cycles = np.arange(_PERIOD) / SAMPLE_RATE * 2 * np.pi * PITCH_HZ[colour] * orders
    return np.asarray((weights @ np.cos(cycles) / np.hypot.reduce(weights)).astype(np.float32))
