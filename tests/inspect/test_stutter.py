"""Stutter at latent borders, and jumps in first chunks, are measured where seams do not see them."""

import numpy as np
import pytest

from longtake.pipeline.inspect.report import inspect_film
from longtake.pipeline.inspect.stutter import measure_starts, measure_stutter
from longtake.pipeline.inspect.subject import open_subject
from longtake.pipeline.training.world import Moves
from tests.inspect.shapes_film import film_of, true_film, write_take

SECONDS, CHUNK, LATENT = 12, 16, 4
SLOW = "a blue square bounces slow on a light background"
FAST = "a red circle bounces fast on a dark background"


class Stuttering(Moves):
    """The shape moves twice as far at every latent border as inside latents, chunk borders included."""

    def places(self, times_s):
        places = super().places(times_s)
        for border in range(LATENT, len(times_s), LATENT):
            places[border:] += places[border - 1] - places[border - 2]
        return np.clip(places, 12, 52)


class Jumping(Moves):
    """The shape jumps by 20 pixels at frame 12 of the film."""

    def places(self, times_s):
        places = super().places(times_s)
        return np.where(np.arange(len(times_s))[:, None] >= 12, np.abs(places - 20), places)


def inspected(path, film, prompt=SLOW):
    return inspect_film(open_subject(write_take(path, film, [prompt], [SECONDS])))


def graded(inspection):
    return {verdict.key: verdict.grade for verdict in inspection.verdicts}


@pytest.mark.parametrize("prompt", [SLOW, FAST])
def test_a_true_film_does_not_stutter(tmp_path, prompt):
    film = inspected(tmp_path, true_film(prompt, SECONDS, seed=2), prompt)
    assert film.stutter.ratio == pytest.approx(1, abs=0.08)
    assert film.stutter.border_px == pytest.approx(film.stutter.inside_px, rel=0.1)
    assert film.starts.unseen == 0
    assert (graded(film)["stutter_ratio"], graded(film)["start_jump_px"]) == ("good", "good")


def test_stutter_is_seen_where_seams_are_not(tmp_path):
    moves = true_film(SLOW, SECONDS, seed=2).moves
    film = inspected(tmp_path, film_of(Stuttering(moves.legs), SECONDS))
    assert film.stutter.ratio > 1.3
    assert film.stutter.border_px > 1.5 * film.stutter.inside_px
    assert graded(film)["stutter_ratio"] in ("look", "bad")
    assert graded(film)["seam_latent_ratio"] == "good"


def test_a_jump_in_the_first_chunk_is_measured_in_pixels(tmp_path):
    moves = true_film(SLOW, SECONDS, seed=2).moves
    film = inspected(tmp_path, film_of(Jumping(moves.legs), SECONDS))
    assert film.starts.jump_frame == 12
    assert film.starts.jump_px > 12
    assert film.starts.later_px < 3
    assert graded(film)["start_jump_px"] == "bad"


def test_first_chunks_are_those_after_cuts():
    middles = np.zeros((96, 2))
    middles[50:, 0], middles[70:, 1], middles[8] = 9, 30, np.nan
    starts = measure_starts(middles, range(16, 96, 16), [48])
    assert (starts.count, starts.jump_px, starts.jump_frame) == (2, 9, 50)
    assert (starts.unseen, starts.unseen_later) == (1 / 32, 0)
    assert measure_starts(middles, (), ()) is None
    assert measure_starts(np.full((96, 2), np.nan), range(16, 96, 16), ()) is None


def test_films_without_known_latents_have_no_stutter(tmp_path):
    film = inspected(tmp_path, true_film(SLOW, SECONDS, seed=2))
    pictures = film.traces.video.pictures
    assert measure_stutter(pictures, (), ()) is None
    assert measure_stutter(pictures, range(16, 96, 16), range(16, 96, 16)) is None
