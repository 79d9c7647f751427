"""The table of `pipeline/testing/film_kinds.py`, each file by each reader, against FFmpeg's own decoding of it."""

import av
import numpy as np
import pytest
import torch

from longtake.pipeline.footage.cuts import small_pictures
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.media.read import count_film, stream_frames
from longtake.pipeline.media.sound import stream_sound
from longtake.pipeline.testing.film_kinds import KINDS, PICTURES, code

IDS = [kind.name for kind in KINDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kinds")


def decoded_times(path):
    """Seconds from the first picture, as FFmpeg decodes them; None for pictures without times."""
    with av.open(path) as container:
        stream = next(stream for stream in container.streams.video if not stream.disposition & 1024)
        times = [None if frame.pts is None else frame.pts * stream.time_base for frame in container.decode(stream)]
    return None if None in times else [time - times[0] for time in times]


def numbers_of(pictures):
    codes = torch.tensor([code(number) / 255 for number in range(PICTURES)])
    return [(codes - picture.mean()).abs().argmin().item() for picture in pictures]


def click_s(path):
    sound = stream_sound(path)
    loud = np.abs(np.concatenate(list(sound.blocks), axis=1)).max(axis=0)
    return float(sound.start_s) + int(np.argmax(loud > 0.4 * loud.max())) / sound.rate


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_every_kind_of_file_is_read_as_it_is_presented(folder, kind):
    path = kind.write(folder)
    footage = open_footage(path)
    whole = list(read_pictures(footage, range(footage.num_frames)))
    numbers = [*(kind.numbers or range(kind.first, kind.first + kind.pictures))]
    assert (footage.num_frames, numbers_of(whole)) == (kind.pictures, numbers)
    expected = decoded_times(path)
    if expected is not None and not footage.restarts:
        assert [(pts - footage.pts[0]) * footage.time_base for pts in footage.pts] == expected
    middle = kind.pictures // 2
    assert torch.equal(next(read_pictures(footage, range(middle, middle + 1))), whole[middle])
    assert [number for number, _ in small_pictures(footage, range(kind.pictures))] == [*range(kind.pictures)]


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_films_to_inspect_and_to_continue_are_counted_and_heard_in_time(folder, kind):
    path = kind.write(folder)
    count = count_film(path)
    blocks = list(stream_frames(path))
    times = [time_s for block in blocks for time_s in block.times_s]
    pictures = torch.from_numpy(np.concatenate([block.frames for block in blocks])) / 255
    assert count.video.num_packets == len(times) == kind.pictures
    assert numbers_of(pictures) == [*(kind.numbers or range(kind.first, kind.first + kind.pictures))]
    assert times == sorted(set(times))
    assert min(count.video.start_s, count.audio.start_s if count.audio else 0) == 0
    if kind.click_s is not None:
        assert click_s(path) - float(times[0]) == pytest.approx(kind.click_s, abs=0.0015)
