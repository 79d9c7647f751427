from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from longtake.pipeline.models.embedded import SHAPES_VOCABULARY, SOUNDING_SHAPES
from longtake.pipeline.training.data import World, draw_frames, render, strike_sound
from longtake.pipeline.training.world import (
    CAPTIONS,
    FPS,
    HELD_OUT,
    MOTIONS,
    PITCH_HZ,
    SAMPLE_RATE,
    Caption,
    Leg,
    Moves,
    box,
    draw_caption,
    draw_moves,
    switched,
)

RIGHT_AND_DOWN = np.array([50.0, 20.0])
FAST = Caption("red", "circle", "bounces fast", "dark")


def moves(caption: Caption = FAST, velocity=RIGHT_AND_DOWN, place=(32.0, 32.0)) -> Moves:
    return Moves((Leg(caption, 0.0, np.array(place), np.array(velocity)),))


def test_hits_are_the_times_at_which_the_shapes_edge_reaches_a_wall():
    ((caption, times, speeds),) = moves().hits(1.5)
    assert caption == FAST
    np.testing.assert_allclose(times, [22 / 50, 22 / 20, 22 / 50 + 44 / 50])
    np.testing.assert_allclose(speeds, [50, 20, 50])


@pytest.mark.parametrize("velocity", [(50, 20), (-50, 20), (-30, -33), (24, -9)])
def test_the_shape_turns_exactly_at_its_hits_and_nowhere_else(velocity):
    film = moves(velocity=velocity)
    ((_, times, _),) = film.hits(10.0)
    for before, after in pairwise([0.0, *times, 10.0]):
        inside = film.places(np.linspace(before + 1e-9, after - 1e-9, 7))
        np.testing.assert_allclose(np.diff(inside, n=2, axis=0), 0, atol=1e-6)
    low, high = box("circle")
    at_hits = film.places(times)
    assert np.all(np.isclose(at_hits, low).any(axis=1) | np.isclose(at_hits, high).any(axis=1))


def test_a_glide_touches_no_wall_and_a_resting_shape_stays():
    rng = np.random.default_rng(0)
    times = np.linspace(1.5, 20, 500)
    low, high = box("triangle")
    for _ in range(20):
        places = draw_moves(rng, Caption("blue", "triangle", "glides", "light")).places(times)
        assert np.all(places > low + 0.5)
        assert np.all(places < high - 0.5)
    still = draw_moves(rng, Caption("blue", "triangle", "rests", "light")).places(times)
    assert np.ptp(still, axis=0).max() == 0


def test_a_tone_begins_at_each_hit_with_the_pitch_of_its_colour():
    sound = strike_sound([moves()], 2 * SAMPLE_RATE)[0]
    first = 22 / 50 * SAMPLE_RATE
    assert sound[: int(first)].abs().max() == 0
    assert sound[int(first) + 1 : int(first) + 40].abs().max() > 1e-3
    spectrum = torch.fft.rfft(sound[int(first) : int(first) + 8000]).abs()
    assert abs(spectrum.argmax() * SAMPLE_RATE / 8000 - PITCH_HZ["red"]) <= 2


def test_tones_keep_the_films_phase():
    """Hits at any distance share one carrier: the ratio of their sounds is the ratio of their envelopes."""
    one, two = (strike_sound([moves(velocity=(speed, 0.01))], SAMPLE_RATE)[0] for speed in (44.0, 50.0))
    late = slice(12_000, 12_000 + 800)
    turns = torch.sign(one[late]) * torch.sign(two[late])
    assert (turns >= 0).all()


@pytest.mark.parametrize("motion", MOTIONS[2:])
def test_silent_motions_are_silent(motion):
    clips = render([draw_moves(np.random.default_rng(1), Caption("cyan", "square", motion, "dark"))], Fraction(4))
    assert clips.sound.abs().max() == 0


def test_frames_show_colour_shape_and_position_at_the_middle_of_their_time():
    frames, near = draw_frames([moves()], 4)
    red = (frames[0, :, 0] + 1) * 127.5
    x = ((red - 24).clamp_min(0) * (torch.arange(64) + 0.5)).sum(dim=(1, 2)) / (red - 24).clamp_min(0).sum(dim=(1, 2))
    torch.testing.assert_close(x, 32 + 50 * (torch.arange(4) + 0.5) / FPS, atol=0.02, rtol=0)
    assert red.max().round() == 230
    assert red[:, 0, 0].round().unique().tolist() == [24]
    assert near[0, 0, 32, 33] == 1
    assert near[0, 0, 2, 2] == 0


def test_a_switch_keeps_position_and_direction():
    rng = np.random.default_rng(3)
    slow = Caption("blue", "circle", "bounces slow", "light")
    film = switched(rng, moves(), slow, 1.0)
    before, at, after = film.places(np.array([1 - 1e-6, 1.0, 1 + 1e-3]))
    np.testing.assert_allclose(before, at, atol=1e-3)
    velocity = (after - at) / 1e-3
    assert np.all(np.sign(velocity) == np.sign(at - film.places(np.array([1 - 1e-3]))[0]))
    assert 18 <= np.hypot(*velocity) <= 26.1
    assert [caption for caption, *_ in film.hits(3.0)] == [FAST, slow]


def test_draws_depend_only_on_their_numbers_and_exclude_held_out_captions():
    whole = World().draw((5, 6), range(6), Fraction(2), switch=0.5)
    halves = [World().draw((5, 6), numbers, Fraction(2), switch=0.5) for numbers in (range(3), range(3, 6))]
    assert torch.equal(whole.frames, torch.cat([half.frames for half in halves]))
    torch.testing.assert_close(whole.sound, torch.cat([half.sound for half in halves]), rtol=0, atol=1e-6)
    assert whole.prompts == halves[0].prompts + halves[1].prompts
    rng = np.random.default_rng(0)
    drawn = {draw_caption(rng) for _ in range(6000)}
    assert drawn == set(CAPTIONS) - set(HELD_OUT)


def test_every_caption_uses_the_models_vocabulary_and_parses_back():
    words = {word for caption in CAPTIONS for word in str(caption).split()}
    assert words == set(SHAPES_VOCABULARY)
    assert all(Caption.parse(str(caption)) == caption for caption in CAPTIONS)
    assert Caption.parse("a red circle") is None
    assert max(len(str(caption).split()) for caption in CAPTIONS) <= SOUNDING_SHAPES.denoiser.text_tokens
