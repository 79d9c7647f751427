import av
import numpy as np
import pytest

from longtake.pipeline.media.read import count_film
from longtake.pipeline.media.sound import stream_sound
from tests.inspect.foreign_films import moving_waves, tones, write_film


def test_films_with_b_frames_are_in_order(tmp_path):
    count = count_film(write_film(tmp_path / "film.mp4", moving_waves(), bframes=3))
    assert (count.video.num_packets, count.video.monotone, count.audio) == (48, True, None)


@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "quad", "5.0", "5.1", "6.1", "7.1"])
def test_every_channel_of_the_sound_is_read(tmp_path, layout):
    sound = tones(layout)
    url = write_film(tmp_path / "film.mov", moving_waves(), sound, layout=layout, sound_codec="pcm_f32le")
    read = np.concatenate(list(stream_sound(url).blocks), axis=1)
    assert read.shape == (av.AudioLayout(layout).nb_channels, sound.shape[1])
    assert np.array_equal(read, sound)
