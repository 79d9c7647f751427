"""The tables of `pipeline/testing/file_kinds.py`: sounds and stills, each by the readers that take them."""

import gc

import numpy as np
import pytest

from longtake.pipeline.conditioning.files import read_picture, read_sound
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.media.read import read_still, reading
from longtake.pipeline.testing.file_kinds import SOUNDS, STILLS, slopes

RATE = 48_000


@pytest.mark.parametrize("kind", SOUNDS, ids=[kind.name for kind in SOUNDS])
def test_every_kind_of_sound_is_heard_in_time(tmp_path, kind):
    path = kind.write(tmp_path)
    given = read_sound(path, RATE, 1, most=2 * RATE)
    loud = given.pcm[0].abs()
    assert int((loud > 0.4 * loud.max()).int().argmax()) == pytest.approx(9600 + kind.late, abs=48)
    assert given.num_samples == pytest.approx(RATE, abs=1600)
    assert reading(path) in {"", ", read by its timestamps and as it is shown"}


@pytest.mark.parametrize("kind", STILLS, ids=[kind.name for kind in STILLS])
def test_every_kind_of_still_is_seen_as_it_is(tmp_path, kind):
    path, wanted = kind.write(tmp_path), slopes().astype(float)
    if kind.is_grey:
        wanted = np.repeat((wanted @ (0.299, 0.587, 0.114))[..., None], 3, axis=2)
    shown = read_still(path).frames[0]
    assert np.abs(shown - wanted).mean() < kind.most
    assert read_picture(path, 32, 32).shape == (1, 3, 32, 32)
    footage = open_footage(path)
    enlarged = next(read_pictures(footage, range(1))).numpy().transpose(1, 2, 0) * 255
    assert np.abs(enlarged - shown).mean() < 1.5
    gc.collect()  # what was freed twice shows here
    assert ("the ICC profile is not carried over" in footage.notes) == ("profile" in kind.name)
