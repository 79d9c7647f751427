"""Every fault triggers its own detector and no other."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from longtake.pipeline.inspect.report import inspect_film
from longtake.pipeline.inspect.subject import open_subject
from longtake.pipeline.training.world import FPS, SAMPLE_RATE, Moves
from tests.inspect.shapes_film import film_of, true_film, write_mp4, write_take

SECONDS, CHUNK = 12, 16
FAST = "a red circle bounces fast on a dark background"
SLOW = "a blue square bounces slow on a light background"


class Jumpy(Moves):
    """At every chunk border the shape jumps ahead by half of its motion per frame."""

    def places(self, times_s):
        places = super().places(times_s)
        for border in range(CHUNK, len(times_s), CHUNK):
            places[border:] += 0.5 * (places[border - 1] - places[border - 2])
        return places


def clean(film):
    return film


def jump_at_borders(film):
    return replace(film, frames=film_of(Jumpy(film.moves.legs), SECONDS).frames)


def fade(film):
    contrast = np.linspace(1, 0.8, len(film.frames))[:, None, None, None]
    return replace(film, frames=(128 + (film.frames - 128.0) * contrast).round().astype(np.uint8))


def freeze(film):
    return replace(film, frames=film.frames[np.minimum(np.arange(len(film.frames)), 136)])


def late_sound(film):
    return replace(film, sound=np.roll(film.sound, round(0.03 * SAMPLE_RATE)))


def click(film):
    sound = film.sound.copy()
    sound[5 * SAMPLE_RATE] += 0.05
    return replace(film, sound=sound)


@pytest.fixture(scope="module")
def inspected(tmp_path_factory):
    """The inspection of a film with a fault, by prompt and fault."""

    @cache
    def inspection(prompt, fault):
        film = fault(true_film(prompt, SECONDS, seed=3))
        return inspect_film(open_subject(write_take(tmp_path_factory.mktemp("take"), film, [prompt], [SECONDS])))

    return inspection


def fired(inspection):
    return {verdict.key for verdict in inspection.verdicts if verdict.grade in ("look", "bad")}


@pytest.mark.parametrize("prompt", [FAST, SLOW])
@pytest.mark.parametrize(
    ("fault", "fires", "may_fire"),
    [
        (clean, set(), set()),
        (jump_at_borders, {"seam_latent_ratio"}, {"worst_seam", "jolt_ratio"}),
        (fade, {"drift_contrast"}, {"drift_saturation", "drift_sharpness"}),
        (freeze, {"motion_left", "frozen"}, {"drift_sharpness", "sync_f1", "drift_contrast", "drift_saturation"}),
        (late_sound, {"offset_ms"}, set()),
        (click, {"clicks_excess"}, set()),
    ],
)
def test_the_right_detector_fires_and_the_others_stay_quiet(inspected, prompt, fault, fires, may_fire):
    inspection = inspected(prompt, fault)
    assert fires <= fired(inspection) <= fires | may_fire
    assert inspection.grade == ("good" if fault is clean else inspection.grade)


def test_a_dropped_frame_is_a_gap_where_its_time_is_left_and_a_miscount_where_it_is_closed(tmp_path):
    film = true_film(FAST, SECONDS, seed=3)
    kept = np.delete(np.arange(SECONDS * FPS), SECONDS * FPS - 10)
    whole = write_mp4(tmp_path / "whole.mp4", film.frames, film.sound)
    left = write_mp4(tmp_path / "left.mp4", film.frames[kept], film.sound, ticks=kept)
    closed = write_mp4(tmp_path / "closed.mp4", film.frames[kept], film.sound)
    assert [fired(inspect_film(open_subject(url, "1s"))) for url in (whole, left, closed)] == [
        set(),
        {"gaps"},
        {"miscounts"},
    ]


def test_the_sizes_of_faults_are_read_off(inspected):
    late, jumpy = inspected(FAST, late_sound), inspected(FAST, jump_at_borders)
    assert late.sync.offset_ms == pytest.approx(30, abs=4)
    assert late.sync.f1 == 1
    assert late.sync.chance_f1 < 0.3
    assert jumpy.seams.ratio == pytest.approx(1.5, abs=0.25)
    assert jumpy.seams.latent_ratio == pytest.approx(jumpy.seams.ratio, abs=0.15)
    assert jumpy.seams.z > 4
