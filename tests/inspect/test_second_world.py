"""What the readers say about true clips; `longtake bench world` measures how often they are right."""

import numpy as np
import pytest

from longtake.pipeline.inspect.second_world.hearing import hear
from longtake.pipeline.inspect.second_world.reading import read_film
from longtake.pipeline.training.second_world.captions import Caption
from longtake.pipeline.training.second_world.moves import FPS
from longtake.pipeline.training.second_world.sounds import SAMPLE_RATE
from longtake.pipeline.training.second_world.world import draw_clip


def reading_of(prompt, seconds=4.0, number=0):
    clip = draw_clip((0, 7), number, seconds, Caption.parse(prompt))
    frames = np.round((clip.pictures.frames + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return clip, read_film(np.ascontiguousarray(frames), FPS, clip.sound, SAMPLE_RATE)


def test_identities_are_kept_while_one_shape_hides_behind_another():
    prompt = "a large red circle rests and a small blue square bounces fast on a light striped background"
    clip, read = next(pair for pair in (reading_of(prompt, number=n) for n in range(9)) if hides(pair[0]))
    times_s = (np.arange(4 * FPS) + 0.5) / FPS
    blue = next(body for body in read.bodies if body.colour == "blue")
    error = np.hypot(*(blue.path - clip.moves.paths[1].places(times_s)).T)
    assert np.nanmax(error) < 1
    assert np.isfinite(error).mean() > 0.7


def hides(clip):
    areas = clip.pictures.covers[1].sum(axis=(1, 2))
    return areas.min() < 0.5 * areas.max()


def test_a_meeting_is_an_event_of_both_shapes():
    clip, read = reading_of("a red circle bounces fast and a blue circle bounces slow on a dark background", number=2)
    truth = sorted(event.time_s for event in clip.moves.events if event.kind == "meeting")
    assert truth
    found = [event.time_s for event in read.happenings.events if event.kind == "meeting"]
    np.testing.assert_allclose(found, truth, atol=0.02)


def test_a_sound_is_heard_at_its_time_by_its_shape_at_its_place():
    clip, read = reading_of("a cyan triangle bounces slow on a dark dotted background")
    (colour,), (shape,) = ({getattr(e, name) for e in read.heard.events} for name in ("colour", "shape"))
    assert (colour, shape) == ("cyan", "triangle")
    for heard, event in zip(read.heard.events, clip.moves.events, strict=True):
        assert heard.time_s == pytest.approx(event.time_s, abs=0.006)
        assert heard.x == pytest.approx(np.clip(event.place[0], 6.4, 121.6), abs=2)


@pytest.mark.parametrize("kind", ["black", "noise", "one colour"])
def test_films_of_something_else_are_read_without_an_error(kind):
    rng = np.random.default_rng(0)
    frames = np.zeros((20, 128, 128, 3), np.uint8)
    if kind == "noise":
        frames = rng.integers(0, 256, frames.shape, dtype=np.uint8)
    if kind == "one colour":
        frames[:] = (230, 50, 50)
    sound = 0.3 * rng.standard_normal((2, SAMPLE_RATE)) * (kind == "noise")
    read = read_film(frames, FPS, sound.astype(np.float32), SAMPLE_RATE)
    assert len(read.bodies) == {"black": 0, "noise": 2, "one colour": 1}[kind]
    assert read.ground.camera == "still"


def test_a_sound_shorter_than_a_window_has_no_events():
    assert hear(np.ones((2, 100), np.float32), SAMPLE_RATE).events == ()
