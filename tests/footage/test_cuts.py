"""Cuts, fades and dissolves, with PySceneDetect as the oracle."""

import numpy as np
import pytest
from scenedetect import AdaptiveDetector, ThresholdDetector, detect

from longtake.pipeline.footage.cuts import THRESHOLD, find_cuts, small_pictures
from longtake.pipeline.footage.index import open_footage
from tests.inspect.foreign_films import REAL, panned_blocks, real_frames, write_film


def shots(count=60):
    """Three unlike shots [f h w 3] with motion."""
    return real_frames("carphone_pristine", count), panned_blocks(count, width=128), real_frames("bigbuckbunny", count)


def dissolved(one, other, length):
    """Two shots, the last `length` frames of the first mixed with the first of the second."""
    share = ((np.arange(length) + 0.5) / length)[:, None, None, None]
    mixed = (1 - share) * one[-length:] + share * other[:length]
    return np.concatenate([one[:-length], mixed.round().astype(np.uint8), other[length:]])


def faded(one, other, length, black=6):
    """The first shot fades to black, the second from black."""
    share = np.linspace(1, 0, length)[:, None, None, None]
    out, into = (one[-length:] * share).astype(np.uint8), (other[:length] * share[::-1]).astype(np.uint8)
    return np.concatenate([one[:-length], out, np.zeros((black, *one.shape[1:]), np.uint8), into, other[length:]])


def cuts_of(url):
    footage = open_footage(url)
    return find_cuts(small_pictures(footage, range(len(footage.pts))), THRESHOLD)


def by_oracle(url, detector):
    return [scene[0].frame_num for scene in detect(url, detector)][1:]


def test_hard_cuts_are_those_of_pyscenedetect(tmp_path):
    one, two, three = shots()
    url = write_film(tmp_path / "film.mp4", np.concatenate([one[:50], two[:41], three, two[:33]]))
    assert cuts_of(url) == by_oracle(url, AdaptiveDetector()) == [50, 91, 151]


@pytest.mark.parametrize("length", [8, 16, 24])
def test_a_fade_through_black_is_a_cut_in_its_middle(tmp_path, length):
    one, two, _ = shots()
    url = write_film(tmp_path / "film.mp4", faded(one, two, length))
    (wanted,) = by_oracle(url, ThresholdDetector())
    (found,) = cuts_of(url)
    assert found == pytest.approx(wanted, abs=3)
    assert found == pytest.approx(63, abs=2)


@pytest.mark.parametrize("length", [12, 24, 36])
@pytest.mark.parametrize(
    ("one", "other"), [("carphone_pristine", "bigbuckbunny"), ("bigbuckbunny", "carphone_pristine")]
)
def test_a_dissolve_is_a_cut_in_its_middle(tmp_path, one, other, length):
    url = write_film(tmp_path / "film.mp4", dissolved(real_frames(one), real_frames(other), length))
    (found,) = cuts_of(url)
    assert found == pytest.approx(60 - length / 2, abs=4)


def test_motion_lights_and_fades_at_the_ends_are_no_cuts(tmp_path):
    one, two, _ = shots()
    lights = (two * np.linspace(0.3, 1, 60)[:, None, None, None]).astype(np.uint8)
    ends = one * np.concatenate([np.linspace(0, 1, 20), np.ones(20), np.linspace(1, 0, 20)])[:, None, None, None]
    for frames in (two, lights, ends.astype(np.uint8)):
        assert cuts_of(write_film(tmp_path / "film.mp4", frames)) == []


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_clips_have_the_cuts_of_pyscenedetect(path):
    assert cuts_of(str(path)) == by_oracle(str(path), AdaptiveDetector())
